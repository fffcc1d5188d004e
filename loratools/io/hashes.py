"""The hashes by which image programs identify a file, which its own metadata holds.

The metadata precedes the data, so placeholders of the right length are written first, and replaced
when the file is finished.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from loratools.io.file import InputFile
from loratools.io.header import LENGTH_BYTES, Header, encode_header
from loratools.io.writer import lay_out

_MODEL_HASH, _LEGACY_HASH, _SPEC_HASH = (
    "sshs_model_hash",
    "sshs_legacy_hash",
    "modelspec.hash_sha256",
)
#: The hashes that the metadata of a training has.
OF_TRAINING: Final = (_MODEL_HASH, _LEGACY_HASH)
_LENGTHS = {_MODEL_HASH: 64, _LEGACY_HASH: 8, _SPEC_HASH: 66}
#: The bytes of a file that the legacy hash covers.
_LEGACY_BEGIN, _LEGACY_END = 0x100000, 0x110000
_BLOCK_BYTES = 2**20


def placeholders(names: Iterable[str]) -> dict[str, str]:
    """Zeros of the hashes' lengths, which stand in the metadata until the data is written.

    These are the hashes among the `names` of the metadata's entries.
    """
    found = set(names)
    return {name: "0" * length for name, length in _LENGTHS.items() if name in found}


def seal(file: InputFile) -> Mapping[str, str]:
    """The hashes of a finished file, for those that its metadata has; it is read in blocks.

    The model hash and, after `0x`, that of the ModelSpec are of the data alone: of all bytes after
    the header, as in the examples that Stability AI publishes with the ModelSpec. The legacy hash
    is of the bytes from 0x100000 to 0x110000 of the file as it would be if its only metadata were
    the `ss_` entries; for a smaller file it is the hash of no bytes.
    """
    header = file.read_header()
    digest = hashlib.sha256()
    for block in _data(file, header, 0, file.size):
        digest.update(block)
    model_hash = digest.hexdigest()
    hashes = {
        _MODEL_HASH: model_hash,
        _LEGACY_HASH: _legacy_hash(file, header),
        _SPEC_HASH: f"0x{model_hash}",
    }
    return {name: value for name, value in hashes.items() if name in header.metadata}


def sealed_header(file: InputFile) -> bytes:
    """The header of a finished file with its hashes in place of their placeholders.

    It has the length of the header that the file has.
    """
    header = file.read_header()
    tensors = [(t.name, t.dtype, t.shape) for t in header.tensors]
    layout = lay_out(tensors, {**header.metadata, **seal(file)})
    return layout.padded(_data_begin(file, header) - len(layout.header)).header


def _legacy_hash(file: InputFile, header: Header) -> str:
    start = _training_header(header)
    digest = hashlib.sha256(start[_LEGACY_BEGIN:_LEGACY_END])
    begin, end = (max(0, position - len(start)) for position in (_LEGACY_BEGIN, _LEGACY_END))
    for block in _data(file, header, begin, end):
        digest.update(block)
    return digest.hexdigest()[:8]


def _training_header(header: Header) -> bytes:
    """The header with only the `ss_` entries as metadata; an empty object where there are none."""
    tensors = [(t.name, t.dtype, t.shape) for t in header.tensors]
    metadata = {k: v for k, v in header.metadata.items() if k.startswith("ss_")}
    encoded = encode_header(tensors, metadata)
    if metadata:
        return encoded
    # `encode_header` leaves empty metadata out; sd-scripts hash what the safetensors library writes
    # for it, which is an empty object.
    text = b'{"__metadata__":{},' + encoded[LENGTH_BYTES + 1 :].rstrip(b" ")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _data(file: InputFile, header: Header, begin: int, end: int) -> Iterator[bytes]:
    """The bytes of a file's data from `begin` to `end`, or to the end of the file, in blocks."""
    data_begin = _data_begin(file, header)
    end = min(data_begin + end, file.size)
    for position in range(data_begin + begin, end, _BLOCK_BYTES):
        block = min(_BLOCK_BYTES, end - position)
        yield file.read(position, block)
        file.forget(position, position + block)


def _data_begin(file: InputFile, header: Header) -> int:
    return min((tensor.begin for tensor in header.tensors), default=file.size)
