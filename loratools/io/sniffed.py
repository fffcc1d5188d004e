"""What a file is, by its first bytes: for the message where it is not what it was taken for."""

import re
from collections.abc import Callable, Collection
from typing import Literal, NamedTuple, final

from loratools.errors import shorten
from loratools.io.header_rules import MAX_HEADER_BYTES
from loratools.typed import worded

#: The first bytes that tell what a file is; tar has its mark at byte 257.
SNIFFED_BYTES = 1024
_AGAIN = "download it again"
UNPACK = "unpack it, and name what is in it"
_AS_SAFETENSORS = "use the safetensors file of the same weights"
_ANOTHER = "name the file that is meant"


@final
class Known(NamedTuple):
    """A kind of file: its name with an article, and what to do with a file of this kind.

    `in_python` says the latter for Python, if it names an option or a command. `sort` is what reads
    such a file, if anything here does, or whether people can.
    """

    name: str
    told: str
    sort: Literal["pickle", "zip", "text", "other"] = "other"
    in_python: str | None = None

    @property
    def advice(self) -> str:
        """What to do with it."""
        return self.told if self.in_python is None else worded(self.told, self.in_python)


#: The kinds that are known by bytes at one place: the bytes, where they are, and the kind.
_MARKS: tuple[tuple[bytes, int, Known], ...] = (
    (b"GGUF", 0, Known("a GGUF file", "use the safetensors file that it was made from")),
    *(
        (mark, 0, Known("a GGML file", "use the safetensors file that it was made from"))
        for mark in (b"lmgg", b"tjgg", b"fmgg", b"algg")
    ),
    (b"\x89HDF\r\n\x1a\n", 0, Known("an HDF5 file, as Keras writes", _AS_SAFETENSORS)),
    (b"TFL3", 4, Known("a TensorFlow Lite file", _AS_SAFETENSORS)),
    (b"\x93NUMPY", 0, Known("one numpy array (.npy)", "save the tensors, by name, as safetensors")),
    (b"\x1f\x8b", 0, Known("a gzip archive", UNPACK)),
    (b"\xfd7zXZ\0", 0, Known("an xz archive", UNPACK)),
    (b"BZh", 0, Known("a bzip2 archive", UNPACK)),
    (b"\x28\xb5\x2f\xfd", 0, Known("a zstd archive", UNPACK)),
    (b"7z\xbc\xaf\x27\x1c", 0, Known("a 7-Zip archive", UNPACK)),
    (b"Rar!\x1a\x07", 0, Known("a RAR archive", UNPACK)),
    (b"ustar", 257, Known("a tar archive", UNPACK)),
    (b"\x89PNG", 0, Known("a picture (PNG)", _ANOTHER)),
    (b"\xff\xd8\xff", 0, Known("a picture (JPEG)", _ANOTHER)),
    (b"GIF8", 0, Known("a picture (GIF)", _ANOTHER)),
    (b"WEBP", 8, Known("a picture (WebP)", _ANOTHER)),
    (b"ftyp", 4, Known("a video", _ANOTHER)),
    (b"%PDF", 0, Known("a PDF document", _ANOTHER)),
    (b"\x00\x05\x16\x07", 0, Known("a file of macOS's own", "name the file without ._ in front")),
    (b"SQLite format 3\0", 0, Known("a database (SQLite)", _ANOTHER)),
    (b"\x7fELF", 0, Known("a program", _ANOTHER)),
)  # fmt: skip
#: protobuf's fields of an ONNX model: the version of the format, and the name of a program.
_ONNX = re.compile(rb"\x08[\x01-\x20]\x12[\x01-\x7f][ -~]")
#: Beginnings of pickles: the mark of protocols 2 to 5; of the first, a dict, list or name.
_OPS = re.compile(rb"\x80[\x02-\x05].|\([dl]p\d+\n|c[\w.]+\n\w+\n", re.DOTALL)
#: JSON in UTF-16 without a byte order mark: its brace, then letters and zeros in turn.
_UNMARKED_UTF_16 = re.compile(rb"(\{\0[\n\r \"]\0|\0\{\0[\n\r \"])")
_LFS = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\n(?:.*\nsize (\d+))?", re.DOTALL)
_PAGE = re.compile(rb"\s*(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b", re.IGNORECASE)
_NAMES = "it was saved in place of the file, as a login or an error often is; download the file"
_NPZ = "name it .npz, if it is an adapter"
_PICKLE = (
    "if it is an adapter, name it .bin and add --allow-pickle, and if it is a model, save it as "
    "safetensors with PyTorch"
)
_PICKLE_IN_PYTHON = _PICKLE.replace("--allow-pickle", "allow_pickle=True")


def sniffed(start: bytes, size: int) -> Known | None:
    """What a file is that has so many bytes and begins with these; None if it is not known.

    >>> sniffed(b"GGUF" + bytes(60), 64).name
    'a GGUF file'
    """
    return next((known for look in _LOOKS if (known := look(start, size)) is not None), None)


def is_safetensors(start: bytes) -> bool:
    """Whether a file begins with the length of a header, and the header's first byte."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= MAX_HEADER_BYTES


def other_config(fields: Collection[str]) -> str | None:
    """What a JSON object with such fields is, if it is known and no config of an adapter."""
    kinds = {field: known.name for keys, known in _JSON for field in keys.split("|")}
    found = [kinds[field] for field in fields if field in kinds]
    return None if not found or _CONFIG in found else found[0]


def _nothing(start: bytes, size: int) -> Known | None:
    if not size:
        return Known("an empty file (0 bytes)", _AGAIN)
    if size > len(start[:8]) and not any(start):
        return Known("a file that begins with nothing but zeros, as an unfinished download", _AGAIN)
    return None


def _tensors(start: bytes, size: int) -> Known | None:
    if not is_safetensors(start):
        return None
    return Known("a safetensors file", "name it .safetensors, and use it where weights belong")


def _pointer(start: bytes, size: int) -> Known | None:
    found = _LFS.match(start)
    if found is None:
        return None
    whole = f" of {int(found[1])} bytes" if found[1] else ""
    return Known(
        "a Git LFS pointer, which stands for a file that was not downloaded",
        f"fetch the file{whole} with git lfs pull, or download it again",
    )


def _marked(start: bytes, size: int) -> Known | None:
    found = (known for mark, place, known in _MARKS if start.startswith(mark, place))
    return next(found, None)


def _archive(start: bytes, size: int) -> Known | None:
    """A zip archive, which torch and numpy write as well; the name of its first file tells."""
    if not start.startswith(b"PK\x03\x04"):
        return None
    name = start[30 : 30 + int.from_bytes(start[26:28], "little")]
    if name.endswith((b"/data.pkl", b"/.format_version")):
        return Known("a PyTorch pickle (a zip archive)", _PICKLE, "pickle", _PICKLE_IN_PYTHON)
    if name.endswith(b".npy"):
        return Known("an archive of numpy arrays (.npz)", _NPZ, "zip")
    return Known("a zip archive", UNPACK, "zip")


def _pickle(start: bytes, size: int) -> Known | None:
    return (
        Known("a pickle, as PyTorch writes", _PICKLE, "pickle", _PICKLE_IN_PYTHON)
        if _OPS.match(start)
        else None
    )


def _onnx(start: bytes, size: int) -> Known | None:
    return Known("an ONNX file", _AS_SAFETENSORS) if _ONNX.match(start) else None


def _text(start: bytes, size: int) -> Known | None:
    """A text, by what it is written in; the last character may be cut."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or _UNMARKED_UTF_16.match(start):
        return Known("a text in UTF-16", "save it in UTF-8")
    try:
        text = start.decode("utf-8-sig", errors="strict" if size <= len(start) else "ignore")
    except UnicodeDecodeError:
        return None
    if any(not character.isprintable() and not character.isspace() for character in text):
        return None
    if _PAGE.match(start):
        return Known("a web page (HTML)", f"{_NAMES} itself")
    if text.lstrip().startswith("<?xml"):
        return Known("an XML document", f"{_NAMES} itself")
    return _json(text.lstrip()) or Known(
        f"a text, which begins {shorten(' '.join(text.split()), 40)!r}",
        f"{_ANOTHER}, or {_AGAIN} if a server's answer was saved in its place",
        "text",
    )


def _json(text: str) -> Known | None:
    """JSON, by keys that tell what for."""
    if not re.match(r"\{\s*(\"|\})|\[", text):
        return None
    found = (known for keys, known in _JSON if re.search(rf'"({keys})"\s*:', text))
    return next(found, Known("JSON", _ANOTHER, "text"))


_CONFIG = "JSON, the config of an adapter"
_ITS_WEIGHTS = "name its folder, or the file with the weights"
_JSON: tuple[tuple[str, Known], ...] = (
    ("error|errors|detail", Known(
        "JSON with an error, a server's answer", f"{_NAMES} itself", "text")),
    ("peft_type|lora_parameters", Known(_CONFIG, _ITS_WEIGHTS, "text")),
    ("weight_map", Known(
        "JSON, the index of several files", "end its name with .index.json, as it was", "text")),
    ("architectures|_class_name|_diffusers_version", Known(
        "JSON, the config of a model", _ITS_WEIGHTS, "text")),
)  # fmt: skip
#: In this order, because a text can begin like a mark and a pointer is a text.
_LOOKS: tuple[Callable[[bytes, int], Known | None], ...] = (
    _nothing, _tensors, _pointer, _marked, _archive, _pickle, _onnx, _text
)  # fmt: skip
