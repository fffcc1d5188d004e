"""The ordinary mistakes: what was done, and what the message of it has to say.

This table is read in two places. `tests/cli/test_mistakes.py` makes each mistake, and
`docs/make_mistakes.py` writes a page of them. A row that is added here is tested, and has its line
on the page after `scripts/docs`.
"""

import errno
import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest
import torch
from safetensors.torch import load_file, save_file

from loratools.io import writer
from tests.e2e.commands import FIXTURES, SHARDED, SINGLE, SMALL
from tests.sorts_of_files import SORTS


@dataclass(frozen=True)
class Mistake:
    """A command that is wrong in a folder that `furnish` has filled, and what is said about it.

    Attributes:
        name: the mistake, as somebody would tell it.
        command: the command line after `loratools`.
        what: a part of the message: what is wrong.
        where: a part of it: the file, the option or the argument that it is about.
        remedy: a part of it: what to do.
        code: the exit code.
        prepare: changes the folder before the command runs.
        during: a condition of the machine while it runs.
    """

    name: str
    command: str
    what: str
    where: str
    remedy: str
    code: int = 1
    prepare: Callable[[], object] = lambda: None
    during: Callable[[], AbstractContextManager[object]] = nullcontext

    @property
    def arguments(self) -> list[str]:
        """The command line as a shell splits it."""
        return shlex.split(self.command)


def furnish(folder: Path) -> None:
    """Fill a folder with a base and adapters, of a language model and of an image model."""
    shutil.copytree(SINGLE, folder / "base")
    shutil.copytree(SMALL, folder / "adapter")
    shutil.copytree(FIXTURES / "adapters/gpt2-conv1d", folder / "gpt2")
    shutil.copy(FIXTURES / "kohya/sd15-locon/sd15-locon.safetensors", folder / "style.safetensors")


def writes(name: str, data: bytes | str) -> Callable[[], object]:
    """Writes a file of these contents."""
    return lambda: Path(name).write_bytes(data if isinstance(data, bytes) else data.encode())


def cuts(name: str, size: int) -> Callable[[], object]:
    """Leaves the first `size` bytes of a file."""
    return lambda: Path(name).write_bytes(Path(name).read_bytes()[:size])


def _two_loras() -> None:
    for name in ("a", "b"):
        Path("loras").mkdir(exist_ok=True)
        shutil.copy("style.safetensors", f"loras/{name}.safetensors")


def folder(name: str, *files: str) -> Callable[[], object]:
    """Makes a folder of files without contents."""

    def make() -> None:
        Path(name).mkdir()
        for file in files:
            Path(name, file).touch()

    return make


def links(name: str, to: str) -> Callable[[], object]:
    """Puts a link in place of a file."""

    def link() -> None:
        Path(name).unlink()
        Path(name).symlink_to(to)

    return link


def removes(name: str) -> Callable[[], object]:
    """Removes a file."""
    return lambda: Path(name).unlink()


def rewrites(
    name: str, change: Callable[[str, torch.Tensor], dict[str, torch.Tensor]]
) -> Callable[[], object]:
    """Writes other tensors in place of each one of a file."""

    def rewrite() -> None:
        made = [change(key, tensor) for key, tensor in load_file(name).items()]
        save_file({key: value for each in made for key, value in each.items()}, name)

    return rewrite


def widens(name: str) -> Callable[[], object]:
    """Makes all tensors of a file twice as wide."""
    return rewrites(name, lambda key, tensor: {key: torch.cat([tensor, tensor], -1)})


def quantises(name: str) -> Callable[[], object]:
    """Replaces the matrices of a model's layers by zeros, as GPTQ stores them in 4 bits."""

    def packed(key: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        module, _, last = key.rpartition(".")
        if not module.endswith("_proj") or last != "weight":
            return {key: tensor}
        rows, columns = tensor.shape
        return {
            f"{module}.qweight": torch.zeros(columns // 8, rows, dtype=torch.int32),
            f"{module}.qzeros": torch.zeros(1, rows // 8, dtype=torch.int32),
            f"{module}.scales": torch.zeros(1, rows, dtype=torch.float16),
            f"{module}.g_idx": torch.zeros(columns, dtype=torch.int32),
        }

    return rewrites(name, packed)


def sharded(missing: str) -> Callable[[], object]:
    """Makes a model in several files, without one of its files."""

    def make() -> None:
        shutil.copytree(SHARDED, "large")
        Path("large", missing).unlink()

    return make


def moves(name: str, into: str) -> Callable[[], object]:
    """Moves a folder to another one, which is made."""
    return lambda: shutil.move(name, into)


def spoils(name: str) -> Callable[[], object]:
    """Makes the last number of a file a NaN."""
    return lambda: Path(name).write_bytes(Path(name).read_bytes()[:-4] + b"\xff\xff\xff\x7f")


def states(name: str, **fields: object) -> Callable[[], object]:
    """Sets fields in a JSON file."""

    def state() -> None:
        found = json.loads(Path(name).read_text(encoding="utf-8"))
        Path(name).write_text(json.dumps({**found, **fields}), encoding="utf-8")

    return state


@contextmanager
def full_disk() -> Iterator[None]:
    """A disk that has no room for anything that is written."""

    def refuse(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "pwrite_all", refuse)
        yield


@contextmanager
def little_room() -> Iterator[None]:
    """A disk with 1000 free bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
        yield


WEIGHTS = "adapter/adapter_model.safetensors"

#: The mistakes, by what they are made with.
MISTAKES: dict[str, tuple[Mistake, ...]] = {
    "Commands": (
        Mistake(
            "a typing error in a command",
            "inspekt adapter",
            what="No such command",
            where="'inspekt'",
            remedy="did you mean loratools inspect?",
            code=2,
        ),
        Mistake(
            "the name that another program has for a command",
            "extract base base -o out",
            what="No such command",
            where="'extract'",
            remedy="did you mean loratools svd-extract?",
            code=2,
        ),
        Mistake(
            "a command that is an option here",
            "help merge",
            what="No such command",
            where="'help'",
            remedy="did you mean loratools merge --help?",
            code=2,
        ),
        Mistake(
            "a file without a command",
            "style.safetensors",
            what="No such command",
            where="'style.safetensors'",
            remedy="did you mean loratools inspect style.safetensors?",
            code=2,
        ),
        Mistake(
            "the adapter was left out",
            "merge base -o out",
            what="Missing argument",
            where="ADAPTER",
            remedy="name an adapter after the base",
            code=2,
        ),
        Mistake(
            "an option without its value",
            "merge base adapter -o",
            what="requires an argument",
            where="'-o'",
            remedy="Give -o PATH",
            code=2,
        ),
    ),
    "Names": (
        Mistake(
            "a repository without hf://",
            "inspect ben/tales",
            what="no such file or folder",
            where="ben/tales",
            remedy="did you mean hf://ben/tales on the Hub?",
        ),
        Mistake(
            "an address from the browser",
            "inspect https://huggingface.co/ben/tales/blob/main/x.safetensors",
            what="an address, and not a file",
            where="https://huggingface.co/ben/tales/blob/main/x.safetensors",
            remedy="did you mean hf://ben/tales/x.safetensors?",
        ),
        Mistake(
            "an address of another site",
            "merge base https://civitai.com/api/download/models/1 -o out",
            what="an address, and not a file",
            where="https://civitai.com/api/download/models/1",
            remedy="download it, and name the file",
        ),
        Mistake(
            "a typing error in a folder",
            "merge base adaptor -o out",
            what="no such file or folder",
            where="adaptor",
            remedy="did you mean adapter?",
        ),
        Mistake(
            "the ending was left out",
            "convert style --to kohya -o out",
            what="no such file or folder",
            where="style",
            remedy="did you mean style.safetensors?",
        ),
        Mistake(
            "a typing error in the base",
            "svd-extract base bse --rank 4 -o out",
            what="no such file or folder",
            where="bse",
            remedy="did you mean base?",
        ),
        Mistake(
            "a config that is not there",
            "inspect adapter --config adapter_config.json",
            what="no such file or folder",
            where="adapter_config.json",
            remedy="did you mean adapter/adapter_config.json?",
        ),
        Mistake(
            "half a name on the Hub",
            "pull tales -o out",
            what="half of a name on the Hub",
            where="tales",
            remedy="write OWNER/tales",
        ),
        Mistake(
            "an address in place of a repository",
            "push adapter https://huggingface.co/ben/tales",
            what="an address",
            where="https://huggingface.co/ben/tales",
            remedy="did you mean hf://ben/tales?",
        ),
        Mistake(
            "a repository while offline",
            "merge base hf://ben/tales -o out",
            what="offline, and not in the cache",
            where="hf://ben/tales",
            remedy="fetch it once without --offline and HF_HUB_OFFLINE",
            code=4,
        ),
    ),
    "Names as shells and systems have them": (
        Mistake(
            "a path where a repository belongs",
            "push adapter /models/style",
            what="a path, and not a name on the Hub",
            where="/models/style",
            remedy="write OWNER/NAME",
        ),
        Mistake(
            "the repository before the folder",
            "push ann/style adapter",
            what="no such folder",
            where="ann/style",
            remedy="the folder comes first, and then OWNER/NAME",
        ),
        Mistake(
            "hf:// in capitals",
            "merge base HF://ann/style -o out",
            what="no such file or folder",
            where="HF://ann/style",
            remedy="did you mean hf://ann/style?",
        ),
        Mistake(
            "a variable in single quotes",
            "inspect '$HOME/adapter'",
            what="no such file or folder",
            where="$HOME/adapter",
            remedy="or put it in double quotes",
        ),
        Mistake(
            "a pattern that fits nothing",
            "combine 'loras/*.safetensors' -o out",
            what="no such file or folder",
            where="loras/*.safetensors",
            remedy="no name fits this pattern: check its folder and its ending",
        ),
        Mistake(
            "a path of Windows",
            "inspect 'D:/models/style.safetensors'",
            what="no such file or folder",
            where="D:/models/style.safetensors",
            remedy="write it as this system has it, such as /mnt/d/models/style.safetensors in WSL",
        ),
        Mistake(
            "a comma between adapters",
            "combine adapter,gpt2 -o out",
            what="no such file or folder",
            where="adapter,gpt2",
            remedy="name each by itself: adapter gpt2",
        ),
        Mistake(
            "a space between weights",
            "merge base adapter gpt2 -w 0.7 0.3 -o out",
            what="is a number in the place of an adapter",
            where="'0.3'",
            remedy="several weights are one list without spaces (-w 0.7,0.3)",
            code=2,
        ),
        Mistake(
            "a weight where none is taken",
            "resize adapter:0.5 --rank 2 -o out",
            what="no such file or folder",
            where="adapter:0.5",
            remedy="did you mean adapter? It takes no weight here",
        ),
        Mistake(
            "a dash of a word processor",
            "merge base adapter —overwrite -o out",
            what="no such file or folder",
            where="—overwrite",
            remedy="did you mean --overwrite?",
        ),
        Mistake(
            "a link to nothing, as in a copy of the cache",
            "merge base adapter -o out",
            what="a link to ../blobs/x, which is not there",
            where=WEIGHTS,
            remedy="copy it with what it leads to (cp -rL)",
            prepare=links(WEIGHTS, "../blobs/x"),
        ),
        Mistake(
            "a file through a pipe",
            "inspect -",
            what="no such file or folder",
            where="-:",
            remedy="standard input is not read: name a file",
        ),
    ),
    "Files": (
        Mistake(
            "a repository was cloned without its large files",
            "inspect adapter",
            what="a Git LFS pointer",
            where=WEIGHTS,
            remedy="fetch the file of 20440 bytes with git lfs pull",
            prepare=writes(WEIGHTS, SORTS["a Git LFS pointer"].data),
        ),
        Mistake(
            "a login page was saved in place of the file",
            "merge base style.safetensors -o out",
            what="a web page (HTML)",
            where="style.safetensors",
            remedy="download the file itself",
            prepare=writes("style.safetensors", SORTS["a web page"].data),
        ),
        Mistake(
            "a server's answer was saved in place of the file",
            "convert style.safetensors --to kohya -o out",
            what="JSON with an error",
            where="style.safetensors",
            remedy="download the file itself",
            prepare=writes("style.safetensors", SORTS["an answer in JSON"].data),
        ),
        Mistake(
            "a pickle was renamed to .safetensors",
            "resize style.safetensors --rank 2 -o out",
            what="a PyTorch pickle",
            where="style.safetensors",
            remedy="name it .bin and add --allow-pickle",
            prepare=writes("style.safetensors", SORTS["torch.save"].data),
        ),
        Mistake(
            "a base in GGUF",
            "merge base.gguf adapter -o out",
            what="a GGUF file",
            where="base.gguf",
            remedy="merge into the safetensors model that it was made from",
            prepare=writes("base.gguf", SORTS["GGUF"].data),
        ),
        Mistake(
            "a download that was cut off",
            "inspect adapter",
            what="440 of its 20440 bytes are missing",
            where=WEIGHTS,
            remedy="download it again",
            prepare=cuts(WEIGHTS, 20_000),
        ),
        Mistake(
            "a download that has not begun",
            "rescale adapter --strength 0.5 -o out",
            what="an empty file",
            where=WEIGHTS,
            remedy="download it again",
            prepare=cuts(WEIGHTS, 0),
        ),
        Mistake(
            "the config in place of the weights",
            "inspect adapter/adapter_config.json",
            what="the config of an adapter",
            where="adapter/adapter_config.json",
            remedy="name its folder, or the file with the weights",
        ),
        Mistake(
            "the model's config in place of the adapter's",
            "inspect adapter --config base/config.json",
            what="the config of a model",
            where="base/config.json",
            remedy="name its adapter_config.json with --config",
        ),
        Mistake(
            "the preview picture in place of the adapter",
            "inspect style.png",
            what="a picture (PNG)",
            where="style.png",
            remedy="did you mean style.safetensors?",
            prepare=writes("style.png", SORTS["PNG"].data),
        ),
        Mistake(
            "an archive in place of what is in it",
            "inspect adapter.zip",
            what="a zip archive",
            where="adapter.zip",
            remedy="unpack it, and name what is in it",
            prepare=writes("adapter.zip", SORTS["a zip archive"].data),
        ),
        Mistake(
            "the config of an adapter was downloaded without its weights",
            "merge base adapter -o out",
            what="no adapter file in this folder",
            where="adapter:",
            remedy="it has adapter_config.json without the weights; download the weights too",
            prepare=removes(WEIGHTS),
        ),
        Mistake(
            "one of the files of a model was not downloaded",
            "merge large adapter -o out",
            what="lists model-00002-of-00002.safetensors, and no such file is in the folder",
            where="large/model.safetensors.index.json",
            remedy="download it too",
            prepare=sharded("model-00002-of-00002.safetensors"),
        ),
        Mistake(
            "the index of a model was not downloaded",
            "merge large adapter -o out",
            what="parts of the weights, without the index",
            where="large: model-00001-of-00002.safetensors",
            remedy="download the .safetensors.index.json too",
            prepare=sharded("model.safetensors.index.json"),
        ),
        Mistake(
            "a config from an editor that writes a byte order mark",
            "inspect adapter",
            what="it begins with a byte order mark (BOM)",
            where="adapter/adapter_config.json",
            remedy="save it in UTF-8 without one",
            prepare=writes("adapter/adapter_config.json", "\ufeff{}"),
        ),
    ),
    "Several adapters": (
        Mistake(
            "a measurement of several adapters at once",
            "inspect adapter gpt2 --spectrum",
            what="shown of one adapter",
            where="--spectrum",
            remedy="name one alone, or add --json",
            code=2,
        ),
        Mistake(
            "the config of one adapter for several",
            "inspect adapter style.safetensors --config adapter/adapter_config.json",
            what="the config of one adapter",
            where="--config",
            remedy="name that one alone",
            code=2,
        ),
        Mistake(
            "a folder of adapters in place of one",
            "merge base loras -o out",
            what="several weight files (a.safetensors, b.safetensors)",
            where="loras",
            remedy="name the one to use",
            prepare=_two_loras,
        ),
    ),
    "Adapters and bases": (
        Mistake(
            "a word for a number in a config",
            "merge base adapter -o out",
            what='r must be a finite number, is "8"',
            where="adapter/adapter_config.json",
            remedy="correct it there, or name another config with --config",
            prepare=states("adapter/adapter_config.json", r="8"),
        ),
        Mistake(
            "a config of your own without a field",
            "inspect adapter --config mine.json",
            what="lora_alpha is missing",
            where="mine.json",
            remedy="correct it there, or name another config with --config",
            prepare=writes("mine.json", '{"peft_type": "LORA", "r": 4}'),
        ),
        Mistake(
            "a config that announces what is not stored",
            "merge base adapter -o out",
            what="modules_to_save lists lm_head, which is not stored",
            where="adapter/adapter_config.json",
            remedy="change modules_to_save in a copy of the config",
            prepare=states("adapter/adapter_config.json", modules_to_save=["lm_head"]),
        ),
        Mistake(
            "adapter and base in the wrong order",
            "merge adapter base -o out",
            what="an adapter, where a base model is expected",
            where="adapter:",
            remedy="loratools merge BASE adapter -o OUT",
        ),
        Mistake(
            "an adapter's file as the base",
            "swap style.safetensors --in adapter",
            what="an adapter, where a base model is expected",
            where="style.safetensors",
            remedy="loratools swap BASE --in style.safetensors",
        ),
        Mistake(
            "an adapter to extract from",
            "svd-extract adapter base --rank 4 -o out",
            what="an adapter, where a base model is expected",
            where="adapter:",
            remedy="it takes two models: loratools svd-extract MODEL BASE",
        ),
        Mistake(
            "a model as the adapter",
            "inspect base",
            what="not an adapter but the weights of a model",
            where="base",
            remedy="name an adapter in its place, or make one",
        ),
        Mistake(
            "an image adapter on a language model",
            "merge base style.safetensors -o out",
            what="for an image model, Stable Diffusion 1 or 2, and base is a language model",
            where="style.safetensors",
            remedy="the adapter says that it was trained on 'v1-5-pruned-emaonly.safetensors'",
        ),
        Mistake(
            "an image adapter swapped into a language model",
            "swap base --in style.safetensors",
            what="for an image model, Stable Diffusion 1 or 2, and base is a language model",
            where="style.safetensors",
            remedy="the adapter says that it was trained on 'v1-5-pruned-emaonly.safetensors'",
        ),
        Mistake(
            "an adapter of another language model",
            "merge base gpt2 -o out",
            what="none of its updates has a place in base",
            where="gpt2",
            remedy="the adapter says that it was trained on 'tiny-gpt2'",
        ),
        Mistake(
            "an adapter of a model of another size",
            "merge base adapter -o out",
            what="the base has it with another shape",
            where="adapter: none of its updates has a place in base",
            remedy="the adapter says that it was trained on 'stories260k'",
            prepare=widens("base/model.safetensors"),
        ),
        Mistake(
            "a base that is quantised",
            "merge base adapter -o out",
            what="is stored packed (GPTQ",
            where="base: model.layers.0.self_attn.q_proj.weight",
            remedy="merge into the original float weights, then quantise the result",
            prepare=quantises("base/model.safetensors"),
        ),
        Mistake(
            "a typing error in a choice of weights",
            "merge base adapter --only '*.q_porj' -o out",
            what="matches no target",
            where="--only '*.q_porj'",
            remedy="nearest: model.layers.0.self_attn.q_proj.weight",
        ),
        Mistake(
            "a folder with a dataset",
            "inspect data",
            what="no adapter file in this folder",
            where="data",
            remedy="it has a dataset (train.parquet); name the folder or the file of an adapter",
            prepare=folder("data", "train.parquet"),
        ),
        Mistake(
            "the state of a training in place of what was trained",
            "rescale run --strength 2 -o out",
            what="no adapter file in this folder",
            where="run",
            remedy="it has the state of a training (optimizer.pt, rng_state.pth)",
            prepare=folder("run", "optimizer.pt", "rng_state.pth"),
        ),
        Mistake(
            "the folder above the adapters",
            "merge base runs -o out",
            what="no adapter file in this folder",
            where="runs",
            remedy="name the folder of an adapter in it: runs/one",
            prepare=moves("adapter", "runs/one"),
        ),
        Mistake(
            "a format that cannot hold the adapter",
            "convert adapter --to kohya -o out",
            what="cannot hold any of the 10 targets",
            where="adapter",
            remedy="keep it in its format",
        ),
        Mistake(
            "a model and the same model",
            "svd-extract base base --rank 4 -o out",
            what="both models have the same weights",
            where="base",
            remedy="name the model that was trained, and then its base",
        ),
        Mistake(
            "an overlay that is none",
            "merge base+adapter gpt2 -o out",
            what="not an overlay",
            where="adapter",
            remedy="name it after the base, with a space",
        ),
    ),
    "Options": (
        Mistake(
            "a typing error in an option",
            "resize adapter --rnk 4 -o out",
            what="No such option",
            where="'--rnk'",
            remedy="'--rank'",
            code=2,
        ),
        Mistake(
            "an option of another command",
            "inspect adapter --strength 2",
            what="No such option",
            where="'--strength'",
            remedy="it is an option of loratools rescale",
            code=2,
        ),
        Mistake(
            "an option that is an argument here",
            "merge --model base adapter -o out",
            what="No such option",
            where="'--model'",
            remedy="it is an argument: loratools merge BASE [ADAPTER...]",
            code=2,
        ),
        Mistake(
            "the token on the command line",
            "push adapter ann/style --token hf_xxx",
            what="No such option",
            where="'--token'",
            remedy="set HF_TOKEN, or log in",
            code=2,
        ),
        Mistake(
            "a choice of weights without an adapter",
            "swap base --only '*.q_proj'",
            what="is for adapters that are put in",
            where="--only",
            remedy="give --in ADAPTER too",
            code=2,
        ),
        Mistake(
            "an = after an option of one letter",
            "merge base adapter -o=out",
            what="no = stands after an option of one letter",
            where="'-o=out'",
            remedy="write -o out",
            code=2,
        ),
        Mistake(
            "an adapter that needs an option before it",
            "swap base adapter",
            what="Got unexpected extra argument (adapter)",
            where="loratools swap takes MODEL",
            remedy="all else by options, such as --in",
            code=2,
        ),
        Mistake(
            "a variable that is not set",
            "merge base adapter --variant '' -o out",
            what="an empty text",
            where="'--variant'",
            remedy="set the variable that it comes from, or leave the option out",
            code=2,
        ),
        Mistake(
            "a variant that the model does not have",
            "merge base adapter --variant fp16 -o out",
            what="has no weights of the variant 'fp16'",
            where="base",
            remedy="use --variant none",
        ),
        Mistake(
            "a dtype by its short name",
            "merge base adapter --dtype bf16 -o out",
            what="is not one of",
            where="'--dtype'",
            remedy="did you mean 'bfloat16'?",
            code=2,
        ),
        Mistake(
            "a typing error in a method",
            "combine adapter adapter --method tie --rank 4 -o out",
            what="is not one of",
            where="'--method'",
            remedy="did you mean 'ties'?",
            code=2,
        ),
        Mistake(
            "a typing error in a format",
            "convert adapter --to kohia -o out",
            what="is not one of",
            where="'--to'",
            remedy="did you mean 'kohya'?",
            code=2,
        ),
        Mistake(
            "a size without its unit",
            "resize adapter --size 5 -o out",
            what="'5' has no unit",
            where="--size",
            remedy="did you mean 5MB?",
            code=2,
        ),
        Mistake(
            "an option of another method",
            "combine adapter adapter --density 0.5 -o out",
            what="linear takes no --density",
            where="--density",
            remedy="--density is for --method breadcrumbs, dare_linear",
            code=2,
        ),
        Mistake(
            "a folder named like a file",
            "merge base adapter -o out.safetensors",
            what="the output is a folder",
            where="out.safetensors",
            remedy="name it out",
        ),
        Mistake(
            "two weights for one adapter",
            "merge base adapter -w 0.5 -w 0.5 -o out",
            what="2 weights (-w)",
            where="1 adapter",
            remedy="give one for each, or none",
            code=2,
        ),
        Mistake(
            "a space in a list of weights",
            "merge base adapter -w 0.7, 0.3 -o out",
            what="'0.7,' is not a number",
            where="'-w' / '--weight'",
            remedy="write 0.7, or several as in 0.7,0.3",
            code=2,
        ),
        Mistake(
            "a weight after the adapter, and another with -w",
            "merge base adapter:0.7 -w 0.5 -o out",
            what="has its weight after the colon",
            where="'adapter:0.7'",
            remedy="use one of the two",
            code=2,
        ),
        Mistake(
            "a decimal comma in a weight after the adapter",
            "merge base adapter:0,7 -o out",
            what="the weight of an adapter is a number after a colon",
            where="adapter:0,7",
            remedy="write for example adapter:0.7",
            code=2,
        ),
        Mistake(
            "quiet and verbose at once",
            "-q inspect adapter -v",
            what="ask for opposites",
            where="-q/--quiet and -v/--verbose",
            remedy="give one of them",
            code=2,
        ),
        Mistake(
            "a word in place of a weight",
            "merge base adapter -w half -o out",
            what="'half' is not a number",
            where="'-w' / '--weight'",
            remedy="write 0.7, or several as in 0.7,0.3",
            code=2,
        ),
        Mistake(
            "a weight in percent",
            "merge base adapter -w 70% -o out",
            what="'70%' is not a number",
            where="'-w' / '--weight'",
            remedy="did you mean 0.7?",
            code=2,
        ),
        Mistake(
            "a share in percent",
            "resize adapter --energy 95 -o out",
            what="is a share above 0 and at most 1, not 95.0",
            where="--energy",
            remedy="did you mean 0.95?",
            code=2,
        ),
        Mistake(
            "a decimal comma",
            "rescale adapter --strength 0,5 -o out",
            what="'0,5' is not a number",
            where="'--strength'",
            remedy="Did you mean 0.5?",
            code=2,
        ),
        Mistake(
            "a method that needs to know the ranks",
            "combine adapter adapter --method ties -o out",
            what="makes updates of full rank",
            where="ties",
            remedy="with --rank, --energy, --error or --size",
            code=2,
        ),
        Mistake(
            "no rank",
            "resize adapter -o out",
            what="Say how many ranks to keep",
            where="--rank",
            remedy="--energy",
            code=2,
        ),
        Mistake(
            "nothing to change",
            "rescale adapter -o out",
            what="Nothing to do",
            where="--strength",
            remedy="give --strength",
            code=2,
        ),
        Mistake(
            "no output",
            "merge base adapter",
            what="Missing option",
            where="'-o' / '--output'",
            remedy="or use --dry-run",
            code=2,
        ),
    ),
    "Outputs and the machine": (
        Mistake(
            "the output is there already",
            "merge base adapter -o gpt2",
            what="exists already",
            where="gpt2",
            remedy="use --overwrite to replace it",
        ),
        Mistake(
            "the output is the input",
            "rescale adapter --strength 2 -o adapter --overwrite",
            what="is the input adapter",
            where="adapter",
            remedy="name another output",
        ),
        Mistake(
            "the output's folder is not there",
            "merge base adapter -o models/new/out",
            what="no such folder",
            where="models/new",
            remedy="make it first",
        ),
        Mistake(
            "the output's folder is a file",
            "merge base adapter -o style.safetensors/out",
            what="not a folder",
            where="style.safetensors",
            remedy="name another output",
        ),
        Mistake(
            "the output in a cloud",
            "merge base adapter -o s3://bucket/out",
            what="an address, and not a folder",
            where="s3://bucket:",
            remedy="name a path on this machine, and send what is written there",
        ),
        Mistake(
            "the output into a pipe",
            "merge base adapter -o -",
            what="an output is not standard output",
            where="-:",
            remedy="name a file or a folder",
        ),
        Mistake(
            "the output replaces a folder of other files",
            "merge base adapter -o data --overwrite",
            what="a folder without safetensors files is not replaced",
            where="data",
            remedy="name another output, or remove it first",
            prepare=folder("data", "train.parquet"),
        ),
        Mistake(
            "the disk has too little room",
            "merge base adapter -o out",
            what="bytes are needed and 1000 are free on that file system",
            where=".:",
            remedy="make room, or name an output on another disk",
            code=4,
            during=little_room,
        ),
        Mistake(
            "the disk is full",
            "merge base adapter -o out",
            what="no space left on device",
            where="out",
            remedy="make room, or name an output on another disk",
            code=4,
            during=full_disk,
        ),
        Mistake(
            "a pickle",
            "inspect old.bin",
            what="a pickle, which can run code",
            where="old.bin",
            remedy="--allow-pickle reads it",
            prepare=writes("old.bin", SORTS["torch.save"].data),
        ),
        Mistake(
            "weights that are not finite",
            "merge base adapter -o out",
            what="holds a NaN or an infinity",
            where="model.layers.4.self_attn.v_proj.weight",
            remedy="name another adapter, or --allow-nonfinite writes it",
            prepare=spoils(WEIGHTS),
        ),
    ),
}
