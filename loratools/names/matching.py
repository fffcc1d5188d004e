"""Finds the base tensor that an adapter's target means, by the base's own names and shapes.

These are tried in order, and only tensors of the right shape match:

1. the base tensor with the same name;
2. the one with the same name except for wrappers of a running program, such as `_orig_mod`;
3. the only one whose name differs by a known prefix that was added, removed or replaced;
4. the only one whose name has the target as a suffix, or is a suffix of the target.

A flattened target means the only tensor whose flattened name, or else a suffix of it, is the same.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import final

from loratools.errors import MatchError, listing, shorten
from loratools.names.flattened import endings, flattened_path, without_kernel
from loratools.names.wrappers import unwrapped

#: Prefixes of modules that trainers, heads and exporters put around a model, or leave out.
_CONTAINERS = (
    "model.",
    "base_model.",
    "transformer.",
    "language_model.",
    "text_model.",
    "bert.",
    "roberta.",
    "distilbert.",
    "deberta.",
    "electra.",
    "gpt_neox.",
    "vit.",
    "module.",
    "_orig_mod.",
)

#: Prefixes that transformers 4.52 changed when it restructured vision-language models: the old and
#: the new one.
RENESTED = (
    ("model.", "model.language_model."),
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("visual.", "model.visual."),
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
)
#: Prefixes that mean the same, by transformers' version or by the class that a model is loaded as.
_RENESTINGS = (
    ("model.", "language_model.model."),
    *RENESTED,
    # transformers 5 has left out a module of CLIP, which diffusers has as a text encoder.
    ("text_encoder.", "text_model."),
    ("text_encoder_2.", "text_model."),
    ("text_encoder.", "text_encoder.text_model."),
    ("text_encoder_2.", "text_encoder_2.text_model."),
    # Classes for question answering use another prefix: LlamaForQuestionAnswering, for example.
    ("model.", "transformer."),
)

#: The same module in a flattened name.
_LEFT_OUT = "text_model_"


@final
@dataclass(frozen=True)
class Match:
    """The base tensor that a target means, how their names differ, and whether axes are swapped.

    `renaming` is None if the names are equal.
    """

    name: str
    renaming: str | None
    is_transposed: bool


@final
@dataclass(frozen=True)
class BaseNames:
    """The names and shapes of a base's tensors, searchable by suffixes of names."""

    shapes: Mapping[str, tuple[int, ...]]

    @cached_property
    def _by_leaf(self) -> Mapping[str, tuple[str, ...]]:
        """Names by their last two parts, which names with a common suffix share at least."""
        groups: dict[str, list[str]] = {}
        for name in self.shapes:
            groups.setdefault(_leaf(name), []).append(name)
        return {leaf: tuple(group) for leaf, group in groups.items()}

    @cached_property
    def _wrapped(self) -> Mapping[str, Mapping[str, str]]:
        """Names that have wrappers, and how they differ, by the names without wrappers."""
        groups: dict[str, dict[str, str]] = {}
        for name in self.shapes:
            if (plain := unwrapped(name)) != name:
                groups.setdefault(plain, {})[name] = f"with wrappers: {name}"
        return groups

    @cached_property
    def _by_ending(self) -> Mapping[str, tuple[str, ...]]:
        """Weights by their flattened module paths and all suffixes of those."""
        groups: dict[str, list[str]] = {}
        for name in self.shapes:
            if name.endswith(".weight"):
                for ending in endings(name):
                    groups.setdefault(ending, []).append(name)
        return {ending: tuple(group) for ending, group in groups.items()}

    def match(self, target: str, shape: tuple[int, ...], *, may_transpose: bool = False) -> Match:
        """Find the tensor that `target` means, with this shape or, where allowed, its transpose.

        A flattened target of a 1x1 convolution may mean a linear layer, and the other way round:
        models have changed between the two.

        Raises:
            MatchError: no tensor fits, or several fit equally well; the message has the nearest.
        """
        if flattened_path(target) is not None:
            found = self._find(
                target, lambda name: without_kernel(self.shapes[name]) == without_kernel(shape)
            )
        else:
            shapes = {shape, shape[::-1]} if may_transpose else {shape}
            found = self._find(target, lambda name: self.shapes[name] in shapes)
        if found is None:
            raise MatchError(self._complaint(target, shape))
        name, renaming = found
        return Match(name, renaming, is_transposed=self.shapes[name] == shape[::-1] != shape)

    def match_name(self, target: str) -> Match | None:
        """Find the tensor that `target` means, whatever its shape; None if the base has none.

        Without a shape to tell them apart, the head `classifier` could be taken for the
        `router.classifier` of any layer. So a target outside of the layers never means a tensor
        inside of one.
        """
        found = self._find(target, lambda name: _is_in_layer(target) or not _is_in_layer(name))
        return Match(*found, is_transposed=False) if found else None

    def _find(self, target: str, fits: Callable[[str], bool]) -> tuple[str, str | None] | None:
        if target in self.shapes and fits(target):
            return target, None
        for stage in self._stages(target):
            fitting = {name: renaming for name, renaming in stage.items() if fits(name)}
            if len(fitting) > 1:
                raise MatchError(
                    f"{shorten(target)}: several base tensors fit equally well: {listing(fitting)}"
                )
            if fitting:
                return next(iter(fitting.items()))
        return None

    def _stages(self, target: str) -> tuple[Mapping[str, str], ...]:
        """Groups of base names to try in order, each with how its names differ from the target."""
        path = flattened_path(target)
        if path is None:
            return self._wrapped.get(target, {}), self._renamed(target), self._same_end(target)
        shorter = path.removeprefix(_LEFT_OUT)
        names = self._by_ending.get(path) or self._by_ending.get(shorter, ())
        renamings = {name: f"flattened: {name}" for name in names}
        whole = {name: text for name, text in renamings.items() if endings(name)[0] == path}
        return whole, renamings

    def _renamed(self, target: str) -> Mapping[str, str]:
        """Names of the base that differ from the target only by a known prefix, and how."""
        found: dict[str, str] = {}
        for name, renaming in _renamings(target):
            if name in self.shapes:
                found.setdefault(name, renaming)
        return found

    def _same_end(self, target: str) -> Mapping[str, str]:
        names = self._by_leaf.get(_leaf(target), ())
        return {
            name: f"the only name with the same suffix: {name}"
            for name in names
            if name.endswith(f".{target}") or target.endswith(f".{name}")
        }

    def _complaint(self, target: str, shape: tuple[int, ...]) -> str:
        wanted = f"{shorten(target)} {list(shape)}"
        stages = ([target] if target in self.shapes else [], *self._stages(target))
        named = next((list(stage) for stage in stages if stage), [])
        if named:
            found = ", ".join(f"{shorten(n)} {list(self.shapes[n])}" for n in named[:3])
            return f"{wanted}: the base has it with another shape: {found}"
        near = listing(self._nearest(target), 3)
        return f"{wanted}: no such tensor in the base" + (f"; nearest: {near}" if near else "")

    def _nearest(self, target: str) -> Iterable[str]:
        if flattened_path(target) is not None:
            return ()
        # Comparing with every name of a large base takes minutes; likely ones share the last parts.
        pool = self._by_leaf.get(_leaf(target)) or tuple(self.shapes)
        return difflib.get_close_matches(target, pool[:2000], n=3, cutoff=0.3)


def _renamings(target: str) -> Iterator[tuple[str, str]]:
    for old, new in prefix_changes(target):
        yield new + target.removeprefix(old), described(old, new)


def prefix_changes(target: str) -> Iterator[tuple[str, str]]:
    """Yield known prefixes of a target, each with one that may replace it; both can be empty."""
    for one, other in _RENESTINGS:
        for old, new in ((one, other), (other, one)):
            if target.startswith(old):
                yield old, new
    for prefix in _CONTAINERS:
        yield "", prefix
        if target.startswith(prefix):
            yield prefix, ""


def described(old: str, new: str) -> str:
    """Describe a change of prefix in words."""
    if old and new:
        return f"{old} → {new}"
    return f"{old} removed" if old else f"{new} added"


def _is_in_layer(name: str) -> bool:
    return any(part.isdigit() for part in name.split(".")[1:])


def _leaf(name: str) -> str:
    return ".".join(name.split(".")[-2:])
