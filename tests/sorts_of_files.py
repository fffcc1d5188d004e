"""Files that people have in place of weights or of a config, as other programs write them."""

import bz2
import gzip
import io
import lzma
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

LFS = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    b"size 20440\n"
)
PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body></body></html>\n"


class Sort(NamedTuple):
    """A file, a part of what a message calls it, and a part of what it says to do."""

    data: bytes
    name: str
    remedy: str


def _written(write: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def _zipped(buffer: io.BytesIO) -> None:
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("adapter/adapter_config.json", "{}")


def _tarred(buffer: io.BytesIO) -> None:
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("adapter_config.json"), io.BytesIO())


_TENSORS = {"a": torch.zeros(2)}
_LEGACY = {"_use_new_zipfile_serialization": False}

SORTS = {
    "a Git LFS pointer": Sort(LFS, "a Git LFS pointer", "20440 bytes with git lfs pull"),
    "a web page": Sort(PAGE, "a web page (HTML)", "download the file itself"),
    "a web page after a comment": Sort(b"<!-- x -->\n<html lang=en>", "a web page", "download"),
    "an answer in XML": Sort(b"<?xml version='1.0'?><Error/>", "an XML document", "download"),
    "an answer in JSON": Sort(b'{"error": "Not found"}', "JSON with an error", ""),
    "an answer in words": Sort(b"Entry not found", "begins 'Entry not found'", ""),
    "a model's config": Sort(b'{"architectures": ["M"]}', "the config of a model", ""),
    "an index": Sort(b'{"weight_map": {}}', "the index of several files", ""),
    "torch.save": Sort(
        _written(lambda to: torch.save(_TENSORS, to)), "a PyTorch pickle", "as safetensors"
    ),
    "torch.save of old": Sort(
        _written(lambda to: torch.save(_TENSORS, to, **_LEGACY)), "a pickle", "as safetensors"
    ),
    "a pickle of Python": Sort(pickle.dumps({"a": 1}), "a pickle", "as safetensors"),
    "numpy.savez": Sort(_written(lambda to: np.savez(to, a=np.zeros(2))), "numpy arrays", ".npz"),
    "numpy.save": Sort(_written(lambda to: np.save(to, np.zeros(2))), "one numpy array", "save"),
    "a zip archive": Sort(_written(_zipped), "a zip archive", "unpack it"),
    "a tar archive": Sort(_written(_tarred), "a tar archive", "unpack it"),
    "gzip": Sort(gzip.compress(bytes(50), mtime=0), "a gzip archive", "unpack it"),
    "bzip2": Sort(bz2.compress(bytes(50)), "a bzip2 archive", "unpack it"),
    "xz": Sort(lzma.compress(bytes(50)), "an xz archive", "unpack it"),
    "GGUF": Sort(b"GGUF\3\0\0\0" + bytes(60), "a GGUF file", "made from"),
    "a LoRA of llama.cpp": Sort(b"algg\1\0\0\0" + bytes(60), "a GGML file", "made from"),
    "HDF5": Sort(b"\x89HDF\r\n\x1a\n" + bytes(60), "an HDF5 file", "safetensors file of the same"),
    "ONNX": Sort(b"\x08\x08\x12\x07pytorch" + bytes(60), "an ONNX file", "safetensors"),
    "PNG": Sort(b"\x89PNG\r\n\x1a\n" + bytes(60), "a picture (PNG)", "name the file"),
    "JPEG": Sort(b"\xff\xd8\xff\xe0" + bytes(60), "a picture (JPEG)", "name the file"),
    "WebP": Sort(b"RIFF\0\0\0\0WEBPVP8 " + bytes(60), "a picture (WebP)", "name the file"),
    "MP4": Sort(b"\0\0\0 ftypisom" + bytes(60), "a video", "name the file"),
    "UTF-16 without a mark": Sort(
        '{"r": 8}'.encode("utf-16-le"), "a text in UTF-16", "save it in UTF-8"
    ),
    "UTF-16": Sort("{}".encode("utf-16"), "a text in UTF-16", "save it in UTF-8"),
    "nothing": Sort(b"", "an empty file (0 bytes)", "download it again"),
    "nothing but zeros": Sort(bytes(5000), "nothing but zeros", "download it again"),
}
