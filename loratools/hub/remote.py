"""A file on the Hub that is read by ranges of bytes, so that only these are transferred."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from loratools.errors import FormatError, UnsupportedError
from loratools.hub.names import HubFile
from loratools.hub.repository import Repository
from loratools.io.file import InputFile
from loratools.io.header import Header, TensorInfo

#: Bytes of the first request: it brings most headers, and a small file whole.
_START_BYTES = 128 * 1024
#: Tensors up to this size (a LoRA's alphas) are read with the header, in parallel, since each takes
#: a request of its own.
_SCALAR_BYTES = 64
_WORKERS = 16


class RemoteFile(InputFile):
    """A file of one commit, read by ranges of bytes.

    Bytes that are read this way are not verified: the Hub has a hash of the whole file only.
    """

    def __init__(self, repository: Repository, file: HubFile) -> None:
        self.path = Path(file.path)
        self.size = file.size
        self._repository = repository
        self._file = file
        self._parts = {0: repository.read(file.path, 0, min(file.size, _START_BYTES))}

    @property
    def where(self) -> str:
        """The file's `hf://` name, with the commit."""
        return f"{self._repository.name}/{self._file.path}"

    @property
    def fd(self) -> int:
        """There is no file descriptor: what copies files cannot be given a remote one by mistake.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(f"{self.where}: only parts of it are read, and none copied")

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` with the bytes from `offset` on.

        Raises:
            FormatError: the file ends before.
            HubError, NetworkError: the Hub does not send them.
        """
        size = len(buffer)
        for begin, part in self._parts.items():
            if begin <= offset and offset + size <= begin + len(part):
                buffer[:] = part[offset - begin : offset - begin + size]
                return
        if offset + size > self.size:
            raise FormatError(f"{self.where}: ends before byte {offset + size}")
        if size:
            buffer[:] = self._repository.read(self._file.path, offset, size)

    def read_each(self, places: Iterable[tuple[int, int]]) -> list[bytes]:
        """The bytes at many small places; errors as for `read_into`."""
        return [self.read(offset, size) for offset, size in places]

    def read_header(self) -> Header:
        """The checked safetensors header; the smallest tensors are read with it."""
        header = super().read_header()
        self._read_ahead(t for t in header.tensors if 0 < t.nbytes <= _SCALAR_BYTES)
        return header

    def check_unchanged(self) -> None:
        """Do nothing: a commit does not change."""

    def _read_ahead(self, tensors: Iterable[TensorInfo]) -> None:
        def read(info: TensorInfo) -> tuple[int, bytes]:
            return info.begin, self.read(info.begin, info.nbytes)

        with ThreadPoolExecutor(_WORKERS) as pool:
            self._parts |= dict(pool.map(read, tensors))
