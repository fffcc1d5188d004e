"""The ordinary mistakes: what was done, and what the message of it has to say.

This table is read in two places. `tests/cli/test_mistakes.py` makes each mistake, and
`docs/make_mistakes.py` writes a page of them. A row that is added here is tested, and has its line
on the page after `scripts/docs`.
"""

import shlex
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.commands import FIXTURES, SINGLE, SMALL
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


WEIGHTS = "adapter/adapter_model.safetensors"

#: The mistakes, by what they are made with.
MISTAKES: dict[str, tuple[Mistake, ...]] = {
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
            remedy="name it .bin and use --allow-pickle",
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
            remedy="name the file that is meant",
            prepare=writes("style.png", SORTS["PNG"].data),
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
}
