"""What identifies a weight file without reading all of it: its header, and samples of its values.

Fine-tuned models have the same header as their base, so a header alone would take one for the
other. Training changes matrices nearly everywhere, so a few numbers of each tensor tell them apart.
"""

import hashlib
from dataclasses import dataclass
from typing import final

from loratools.io.checkpoint import Shard
from loratools.io.header import encode_header

#: The most bytes that are read of each tensor, from its middle.
_SAMPLE_BYTES = 4096


@final
@dataclass(frozen=True)
class Fingerprint:
    """The name of a weight file, and two SHA-256 in hex.

    Attributes:
        name: the file's name, for messages.
        header: of the header that `encode_header` makes of its metadata and its tensors' names,
            dtypes and shapes, in the order of their bytes.
        samples: of the 4096 bytes in the middle of each tensor, in this order; all bytes of a
            smaller tensor. None if no values were read.
    """

    name: str
    header: str
    samples: str | None


def fingerprint(shard: Shard, *, values: bool = True) -> Fingerprint:
    """The fingerprint of a file; without `values` only the header's.

    Raises:
        StorageError: the file cannot be read.
    """
    stored = [(tensor.name, tensor.dtype, tensor.shape) for tensor in shard.tensors]
    header = hashlib.sha256(encode_header(stored, shard.metadata)).hexdigest()
    return Fingerprint(shard.name, header, _samples(shard) if values else None)


def _samples(shard: Shard) -> str:
    digest = hashlib.sha256()
    for tensor in shard.tensors:
        size = min(tensor.nbytes, _SAMPLE_BYTES)
        digest.update(tensor.file.read(tensor.begin + (tensor.nbytes - size) // 2, size))
    return digest.hexdigest()
