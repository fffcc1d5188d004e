"""What diffusers' own converters make of an original checkpoint, and where our rules differ.

A converter gets tensors of numbers, each of which tells the tensor and the place in it that it
comes from. As converters move rows only, the other axes are shortened to two.
"""

from collections.abc import Iterator
from functools import cache
from math import prod
from typing import Literal, NamedTuple, final

import torch
from torch import Tensor
from torch.nn import Module

from loratools.names.patterns import depths_of
from loratools.names.rules import Part, Rows, Rules
from tests.names.key_lists import key_list
from tests.oracle._converters import MODELS

#: By how much the numbers of a tensor differ from those of the next.
STEP = 1 << 34

Shape = tuple[int, ...]
Kind = Literal["class", "missing", "extra", "unused", "rows", "shape", "inverse"]


@final
class Traced(NamedTuple):
    """A model's tensors in both layouts.

    Attributes:
        original: the shapes of the original tensors.
        tagged: the same tensors, shortened: `STEP` times the number of the tensor, plus the place.
        diffusers: the shapes of the tensors of the class in diffusers or transformers.
        converted: what the converter has made of the tagged tensors.
    """

    original: dict[str, Shape]
    tagged: dict[str, Tensor]
    diffusers: dict[str, Shape]
    converted: dict[str, Tensor]

    def sources(self) -> dict[str, str]:
        """The original tensor that the converter made each of diffusers' of."""
        names = list(self.tagged)
        return {n: names[int(t.flatten()[0]) // STEP] for n, t in self.converted.items()}


@final
class Difference(NamedTuple):
    """Where rules and diffusers differ.

    The kind says of which tensor: one that only the converter or only the `class` has; one of
    diffusers that is `missing` by the rules, or `extra`, or has other `rows`, another `shape` or
    another way back (`inverse`); an original one that is `unused` without a reason.
    """

    kind: Kind
    name: str
    note: str = ""


@cache
def traced(model: str) -> Traced:
    """What the converter of one of `MODELS` makes of its key list."""
    how = MODELS[model]
    original = key_list(model).tensors
    tagged = {}
    for number, (name, shape) in enumerate(original.items()):
        short = (*shape[:1], *(min(size, 2) for size in shape[1:]))
        tagged[name] = torch.arange(prod(short)).reshape(short) + number * STEP
    built = how.built()
    converted = how.convert(built, {how.prefix + name: tag for name, tag in tagged.items()})
    return Traced(original, tagged, _shapes(built, how.level), converted)


def _shapes(model: Module, level: str) -> dict[str, Shape]:
    """The shapes of a model's tensors; one with several names counts once, by its first."""
    tensors = model.state_dict(keep_vars=True)
    first = {id(tensor): name for name, tensor in reversed(tensors.items())}
    return {level + name: tuple(tensors[name].shape) for name in first.values()}


def differences(model: str, rules: Rules) -> list[Difference]:
    """All differences between rules for a model and what diffusers makes of its key list."""
    trace = traced(model)
    ruled = _ruled(model, rules)
    found = [Difference("class", name) for name in trace.converted.keys() ^ trace.diffusers.keys()]
    found += [Difference("missing", name) for name in trace.converted.keys() - ruled.keys()]
    found += [Difference("extra", name) for name in ruled.keys() - trace.converted.keys()]
    found += [Difference("unused", name) for name in _unused(model, rules)]
    depths = depths_of(trace.diffusers)
    for name in ruled.keys() & trace.converted.keys() & trace.diffusers.keys():
        for part in ruled[name]:
            found += _wrong(part, trace)
            if part not in (rules.wholes(name, depths) or ()):
                found.append(Difference("inverse", name))
    return sorted(found)


def is_unused(model: str, name: str) -> bool:
    """Whether a model is known not to have an original tensor in diffusers."""
    return name.startswith(tuple(MODELS[model].unused))


def _ruled(model: str, rules: Rules) -> dict[str, list[Part]]:
    """What the rules say of the original tensors, by the names of diffusers."""
    original = traced(model).original
    depths = depths_of(original)
    found: dict[str, list[Part]] = {}
    for name in original:
        for part in () if is_unused(model, name) else rules.parts(name, depths) or ():
            found.setdefault(part.diffusers, []).append(part)
    return found


def _unused(model: str, rules: Rules) -> Iterator[str]:
    """The original tensors that are not used, or have no rule, and nothing says why."""
    trace = traced(model)
    depths = depths_of(trace.original)
    used = set(trace.sources().values())
    for name in trace.original:
        explained = is_unused(model, name) or rules.reason(name, depths)
        if not explained and (name not in used or not rules.parts(name, depths)):
            yield name


def _wrong(part: Part, trace: Traced) -> Iterator[Difference]:
    name, converted = part.diffusers, trace.converted[part.diffusers]
    taken = _taken(trace.tagged[part.original], part.rows, converted)
    if taken is None or not torch.equal(taken, converted):
        yield Difference("rows", name, f"{part.original} {part.rows}")
    original, shape = trace.original[part.original], trace.diffusers[name]
    if part.rows.is_reshaped:
        agrees = prod(original) == prod(shape)
    elif part.rows.is_transposed:
        agrees = original[::-1] == shape
    else:
        agrees = original[1:] == shape[1:] and converted.shape[:1] == shape[:1]
    if not agrees:
        yield Difference("shape", name, f"{shape}, of {original}")


def _taken(original: Tensor, rows: Rows, part: Tensor) -> Tensor | None:
    """The rows of an original tensor that a part consists of; None if the numbers do not fit."""
    if rows.is_transposed:
        return original.T
    if rows.is_reshaped:
        return original.reshape(part.shape) if original.numel() == part.numel() else None
    if not original.dim():
        return original
    ranges = rows.resolved(original.shape[0], part.shape[0])
    return None if ranges is None else torch.cat([original[a:b] for a, b in ranges])
