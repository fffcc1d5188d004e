"""Finds the weights of a base that are stored packed: as codes, with the scales that decode them.

The stored tensors decide, weight by weight. What a config declares does not: see `quantised.py`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import final

from loratools.errors import FormatError, MatchError, UnsupportedError, shorten
from loratools.io.checkpoint import Checkpoint
from loratools.io.dtypes import BITS, FLOATS
from loratools.io.json import parse_json_object
from loratools.io.source import Stored
from loratools.names.flattened import flattened_path
from loratools.names.matching import BaseNames, Match, Place
from loratools.names.modules import fused_with
from loratools.names.packed_signs import Sign, signs
from loratools.typed import one_of, valued

#: ComfyUI's notes in a header on the modules that are packed.
_NOTES = "_quantization_metadata"
#: Scales of what modules compute, which belong to no weight. In a model that is not packed a
#: parameter may have such a name, too.
_OF_ACTIVATIONS = (".q_scale", ".k_scale", ".v_scale", ".k_cache_scale", ".v_cache_scale")


@final
@dataclass(frozen=True)
class PackedWeight:
    """A packed weight: its format, and the names of the stored tensors that it consists of."""

    format: str
    tensors: list[str] = field(default_factory=list)


@final
@dataclass(frozen=True)
class Packed:
    """The packed weights of a base.

    Attributes:
        weights: by the names that they would have as plain weights.
        shapes: the shapes that they would have, as far as headers tell.
        scales: the names of tensors that are scales, and belong to none of these weights.
        others: further names of these weights, such as that of a head tied to an embedding.
    """

    weights: Mapping[str, PackedWeight]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    scales: frozenset[str] = frozenset()
    others: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def _owners(self) -> Mapping[str, str]:
        """The packed weight of each name: its own, and those of the tensors it consists of."""
        names = {name: owner for owner, weight in self.weights.items() for name in weight.tensors}
        return names | {name: name for name in self.weights} | dict(self.others)

    @cached_property
    def _of_unknown_shape(self) -> BaseNames:
        return BaseNames({name: () for name in self.weights if name not in self.shapes})

    @property
    def counts(self) -> Mapping[str, tuple[int, int]]:
        """The numbers of packed weights and of their stored tensors, by format."""
        counts: dict[str, tuple[int, int]] = {}
        for weight in self.weights.values():
            weights, tensors = counts.get(weight.format, (0, 0))
            counts[weight.format] = weights + 1, tensors + len(weight.tensors)
        return counts

    def or_packed(self, target: str, match: Match | None) -> Match | None:
        """The tensor that was found for a target, or a packed weight that the target means rather.

        Where the shape of a packed weight is not known, it is found by its name alone, and comes
        before another tensor with a similar name.

        Raises:
            MatchError: the target may mean several packed weights.
        """
        if not self.weights or (match is not None and match.renaming is None):
            return match
        names = self._of_unknown_shape
        if flattened_path(target) is None:
            return names.match_name(target) or match or self._fused(target)
        try:
            return names.match(target, ())
        except MatchError:
            return match

    def _fused(self, target: str) -> Match | None:
        """A packed weight that seems to have the target fused with others."""
        name = fused_with(target, self.weights)
        return Match((Place(name, 0, 0, ()),), f"a part of {name}", False) if name else None

    def holds(self, name: str) -> bool:
        """Whether a name is that of a packed weight, or of a stored tensor of one."""
        return name in self._owners

    def keeps(self, name: str) -> bool:
        """Whether a stored tensor stays as it is, whatever dtype is wanted."""
        return name in self._owners or name in self.scales

    def described(self, name: str) -> str:
        """How the weight of this name, or the one that a tensor of this name belongs to, is stored.

        >>> find_packed({"q.qweight": "I32", "q.g_idx": "I32"}).described("q.weight")
        'packed (GPTQ: q.qweight)'
        """
        weight = self.weights[self._owners[name]]
        others = [tensor for tensor in weight.tensors if tensor != name]
        return f"packed ({weight.format}{f': {shorten(others[0])}' if others else ''})"

    def refuse(self, names: Sequence[str], where: str) -> None:
        """Refuse to change packed weights.

        Raises:
            UnsupportedError: there are names.
        """
        if not names:
            return
        first = shorten(names[0])
        others = len(set(names)) - 1
        more = f", like {others} more that the adapter changes" if others else ""
        left_out = (
            f"them out with {valued('skip')}" if others else f"it out with {one_of('skip', first)}"
        )
        raise UnsupportedError(
            f"{where}: {first} is stored {self.described(names[0])}{more}, and nothing can be "
            f"added to codes",
            hint=f"merge into the original float weights, then quantise the result, or leave "
            f"{left_out}",
        )

    def with_tied(self, *names: str) -> "Packed":
        """The same, where the weights of these names are one tensor: if one is packed, all are."""
        found = [name for name in names if name in self.weights]
        if not found:
            return self
        return replace(self, others={name: found[0] for name in names if name not in found})


#: What a base without packed weights has.
NOTHING_PACKED = Packed({})


def packed_in(base: Checkpoint) -> Packed:
    """The packed weights of a base.

    Raises:
        FormatError: ComfyUI's notes in a header cannot be read.
    """
    notes: dict[str, str] = {}
    for shard in base.shards:
        if _NOTES in shard.metadata:
            noted = _formats(shard.metadata[_NOTES], shard.file.where)
            notes |= {f"{shard.prefix}{module}": format_ for module, format_ in noted.items()}
    packed = find_packed({name: stored.dtype for name, stored in base.tensors.items()}, notes)
    shapes = {
        name: shape
        for name, weight in packed.weights.items()
        if (stored := base.tensors.get(name)) and (shape := _shape(stored, weight.format))
    }
    return replace(packed, shapes=shapes)


def find_packed(dtypes: Mapping[str, str], notes: Mapping[str, str] | None = None) -> Packed:
    """The packed weights among tensors, given by their names and dtypes.

    `notes` has the formats of modules that a header lists as packed.
    """
    found: dict[str, Sign] = {}
    for name in dtypes:
        for weight, sign in signs(name, dtypes, notes or {}):
            found[weight] = min(found.get(weight, sign), sign)
    if not found:
        return NOTHING_PACKED
    owners = _Owners(found)
    weights: dict[str, PackedWeight] = {}
    for name, dtype in dtypes.items():
        owner = owners.owner(name, is_float=dtype in FLOATS)
        if owner is not None and owner not in weights:
            weights[owner] = PackedWeight(found[owner].format)
        if owner is not None:
            weights[owner].tensors.append(name)
    scales = (name for name in dtypes if name.endswith(_OF_ACTIVATIONS))
    return Packed(weights, scales=frozenset(scales))


def _shape(stored: Stored, format_: str) -> tuple[int, ...] | None:
    """The shape of a packed weight whose codes have its name; None if that depends on the format.

    NVFP4 has two codes in each byte.
    """
    if stored.dtype == "U8" and format_.casefold().endswith("nvfp4"):
        return (*stored.shape[:-1], stored.shape[-1] * 2)
    return stored.shape if BITS[stored.dtype] == 8 and stored.dtype not in ("U8", "I8") else None


@final
class _Owners:
    """Finds the packed weight that a stored tensor belongs to, by what its name begins with."""

    def __init__(self, weights: Iterable[str]) -> None:
        # By its module, or by its own name if it is not a module's weight.
        self._weights = {weight.removesuffix(".weight"): weight for weight in weights}
        self._known: dict[str, str | None] = {"": None}

    def owner(self, name: str, *, is_float: bool) -> str | None:
        """The packed weight that consists of this tensor and others; None for a plain tensor."""
        module, dot, leaf = name.rpartition(".")
        is_bias = is_float and leaf == "bias"
        owner = self._inside(module.rpartition(".")[0] if is_bias else module)
        if owner is not None or is_bias:
            return owner
        if name in self._weights:
            return self._weights[name]
        part = leaf.removeprefix("_")
        while "_" in part and not (is_float and leaf.endswith("_bias")):
            part = part.rpartition("_")[0]
            parameter = f"{module}{dot}{part}"
            if self._weights.get(parameter) == parameter:
                return parameter
        return None

    def _inside(self, path: str) -> str | None:
        """The outermost packed weight that a path leads into, whose parts may look packed, too."""
        if path not in self._known:
            outer = self._inside(path.rpartition(".")[0])
            self._known[path] = outer or self._weights.get(path)
        return self._known[path]


def _formats(notes: str, where: str) -> dict[str, str]:
    """The formats of modules in ComfyUI's notes, which are JSON: `{"layers": {MODULE: {…}}}`."""
    layers = parse_json_object(notes.encode(), f"{where}: {_NOTES}").get("layers")
    if not isinstance(layers, dict) or not all(isinstance(v, dict) for v in layers.values()):
        raise FormatError(f"{where}: {_NOTES}: no object `layers` of objects")
    return {module: str(fields.get("format")) for module, fields in layers.items()}
