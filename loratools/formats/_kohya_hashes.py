"""The two hashes by which image programs know a LoRA: they are stored in the file itself."""

import hashlib
from collections.abc import Iterator, Mapping

from loratools.io.file import InputFile
from loratools.io.header import LENGTH_BYTES, Header, encode_header

MODEL_HASH, LEGACY_HASH = "sshs_model_hash", "sshs_legacy_hash"
#: What is written before the data is, in the same length.
PLACEHOLDERS = {MODEL_HASH: "0" * 64, LEGACY_HASH: "0" * 8}

_LEGACY_BEGIN, _LEGACY_END = 0x100000, 0x110000
_BLOCK_BYTES = 2**20


def seal(file: InputFile) -> Mapping[str, str]:
    """Both hashes of a finished file, which is read in blocks.

    The model hash is of the data alone. The legacy hash is of 64 kB, one megabyte into the file as
    it would be with no metadata but the `ss_` entries; a smaller file has that of nothing.
    """
    header = file.read_header()
    digest = hashlib.sha256()
    for block in _data(file, header, 0, file.size):
        digest.update(block)
    return {MODEL_HASH: digest.hexdigest(), LEGACY_HASH: _legacy_hash(file, header)}


def _legacy_hash(file: InputFile, header: Header) -> str:
    start = _training_header(header)
    digest = hashlib.sha256(start[_LEGACY_BEGIN:_LEGACY_END])
    begin, end = (max(0, position - len(start)) for position in (_LEGACY_BEGIN, _LEGACY_END))
    for block in _data(file, header, begin, end):
        digest.update(block)
    return digest.hexdigest()[:8]


def _training_header(header: Header) -> bytes:
    """The header with no metadata but that of the training; an empty object where there is none."""
    tensors = [(t.name, t.dtype, t.shape) for t in header.tensors]
    metadata = {k: v for k, v in header.metadata.items() if k.startswith("ss_")}
    encoded = encode_header(tensors, metadata)
    if metadata:
        return encoded
    text = b'{"__metadata__":{},' + encoded[LENGTH_BYTES + 1 :].rstrip(b" ")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _data(file: InputFile, header: Header, begin: int, end: int) -> Iterator[bytes]:
    """The bytes `begin` to `end` of a file's data, or those there are."""
    data_begin = min((tensor.begin for tensor in header.tensors), default=file.size)
    end = min(data_begin + end, file.size)
    for position in range(data_begin + begin, end, _BLOCK_BYTES):
        yield file.read(position, min(_BLOCK_BYTES, end - position))
