"""The state that a swap keeps beside a model: which adapters are in it, and how it was before.

The folder is beside the model's first weight file and is named after it, so that a model has one
folder, whether it is named by its own folder, its index, a file, or links to them. `state.json` is
the first file in it and the last to go. While it is there, each tensor that a swap has ever changed
has its original bytes in one of the folder's safetensors files.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

from loratools.errors import FormatError, listing
from loratools.io.checkpoint import Checkpoint, Shard, inside
from loratools.io.file import InputFile
from loratools.io.folder import read_json
from loratools.io.json import encode_json
from loratools.typed import completing_swap, worded

STATE = "state.json"
_VERSION = 1
#: The names of the files of tensors in the folder.
TENSOR_FILE = re.compile(r"(originals|next)-\d+\.safetensors")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@final
@dataclass(frozen=True)
class SwappedIn:
    """An adapter that is in a model: where it was read from, and its weight."""

    path: str
    weight: float


@final
@dataclass(frozen=True)
class SwappedTensor:
    """A tensor that a swap has changed.

    Attributes:
        originals: the file with its original bytes.
        original: the SHA-256 of these bytes.
        current: the SHA-256 of its bytes in the model, as they are or are to be.
        source: the file from which it is still to be written; None once it has been.
    """

    originals: str
    original: str
    current: str
    source: str | None = None


@final
@dataclass(frozen=True)
class SwapState:
    """What `state.json` says of a model.

    Attributes:
        headers: the SHA-256 of each weight file's header, by the file's name.
        adapters: those that are in the model; none if it is as it was.
        tensors: the tensors that a swap has changed, by name.
    """

    headers: Mapping[str, str]
    adapters: tuple[SwappedIn, ...] = ()
    tensors: Mapping[str, SwappedTensor] = field(default_factory=dict)

    @property
    def is_interrupted(self) -> bool:
        """Whether some tensors are still to be written: the model's weights are then a mixture."""
        return any(tensor.source for tensor in self.tensors.values())

    @property
    def is_clean(self) -> bool:
        """Whether the model is as it was before any swap."""
        return not self.adapters and not self.is_interrupted

    @property
    def files(self) -> frozenset[str]:
        """The names of the files of tensors that are needed."""
        named = [name for t in self.tensors.values() for name in (t.originals, t.source)]
        return frozenset(name for name in named if name is not None)

    def encode(self) -> bytes:
        """The content of `state.json`.

        Raises:
            FormatError: a name is not Unicode, which JSON has to be.
        """
        fields = {"version": _VERSION, **asdict(self)}
        return encode_json({**fields, "sha256": _digest(fields)})


def swap_folder(base: Checkpoint) -> Path | None:
    """The path of the folder in which swaps keep a model's state; None if it is not on this disk.

    It need not exist.
    """
    return None if base.path is None else _beside(base.shards[0])


def _beside(first: Shard) -> Path:
    # Resolved: a model may be read by links to the files that are rewritten.
    file = first.file.path.resolve()
    return file.with_name(f".{file.name}.loratools-swap")


def read_state(folder: Path) -> SwapState | None:
    """The state in the folder; None where there is none.

    Raises:
        FormatError: it is no state of this version of loratools, or was edited, or is missing
            while other files of it are there.
        StorageError: it cannot be read.
    """
    path = folder / STATE
    if not path.exists():
        if left := [p.name for p in folder.glob("*") if TENSOR_FILE.fullmatch(p.name)]:
            raise FormatError(
                f"{path}: no such file, and without it nobody knows what {sorted(left)[0]} is for",
                hint="put it back, or remove the folder and copy the model anew",
            )
        return None
    fields = read_json(InputFile(path, folder=folder))
    if (version := fields.get("version")) != _VERSION:
        raise FormatError(
            f"{path}: of version {version!r:.20}, and this loratools reads version {_VERSION}",
            hint="take the adapter out with the loratools that put it in",
        )
    if fields.pop("sha256", None) != _digest(fields):
        raise FormatError(
            f"{path}: was edited or damaged",
            hint="put it back, or remove the folder and copy the model anew",
        )
    return _parsed(fields, path)


def refuse_half_swapped(base: Checkpoint) -> None:
    """Refuse a model some of whose weights a swap has still to write.

    Raises:
        FormatError: it is one; or the state of its swaps is damaged.
        StorageError: that state cannot be read.
    """
    for model, state in _states(base):
        if state.is_interrupted:
            raise FormatError(
                f"{model}: a swap has stopped in the middle, or is at work",
                hint=f"{completing_swap(model)} completes it",
            )


def notes_on_swapped(base: Checkpoint) -> tuple[str, ...]:
    """Notes on the adapters that swaps have put into a model, which is no base as it was trained.

    Raises:
        FormatError, StorageError: see `read_state`.
    """
    return tuple(
        f"{model}: {listing(adapter.path for adapter in state.adapters)} "
        f"{'is' if len(state.adapters) == 1 else 'are'} in it; "
        f"{worded(f'loratools swap {model} --out', f'swap({model!r}, [])')} takes "
        f"all adapters out"
        for model, state in _states(base)
        if state.adapters
    )


def _states(base: Checkpoint) -> Iterator[tuple[str, SwapState]]:
    """The states of a model on this disk; a component of a pipeline is swapped by itself."""
    for component in base.components if base.path is not None else ():
        folder = _beside(component.shards[0])
        state = read_state(folder) if folder.is_dir() else None
        if state is not None:
            yield inside(base.where, component.folder) if component.folder else base.where, state


def _digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(encode_json(fields, sort_keys=True)).hexdigest()


def _parsed(fields: dict[str, Any], path: Path) -> SwapState:
    # The digest shows that loratools has written it, so whatever fails here is a fault of its own
    # or somebody's malice: one message for all.
    try:
        tensors = {name: SwappedTensor(**entry) for name, entry in fields["tensors"].items()}
        adapters = tuple(SwappedIn(str(a["path"]), float(a["weight"])) for a in fields["adapters"])
        state = SwapState(dict(fields["headers"]), adapters, tensors)
        digests = [*state.headers.values()]
        digests += [d for tensor in tensors.values() for d in (tensor.original, tensor.current)]
        is_sound = all(_SHA256.fullmatch(digest) for digest in digests)
        is_sound &= all(TENSOR_FILE.fullmatch(name) for name in state.files)
    except (KeyError, TypeError, AttributeError, ValueError):
        is_sound = False
    if not is_sound:
        raise FormatError(
            f"{path}: not the state of a swap", hint="remove the folder and copy the model"
        )
    return state
