"""Finds the tensor of a model that a target means, by the model's own names and shapes.

These are tried in order, and only tensors of the right shape match:

1. the tensor with the same name;
2. the one with the same name except for wrappers of a running program, such as `_orig_mod`;
3. the only one whose name differs by a known prefix that was added, removed or replaced;
4. the only one whose name has the target as a suffix, or is a suffix of the target. What precedes
   it in the target are no modules of the model, and it is in a layer if the target is: the
   `norm_out` of a model is not the `norm_out` of one of its blocks.

A flattened target means the only tensor whose flattened name, or else a suffix of it, is the same.
One of an encoder of text is never a tensor of an encoder of images, nor the other way round
(`towers.py`).
A tensor has a name in each layout that is known of its model (`other_names.py`).
"""

import difflib
import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import cast, final

from loratools.errors import MatchError, listing, shorten
from loratools.names.flattened import endings, flattened_path, without_kernel
from loratools.names.nestings import described, prefix_changes
from loratools.names.other_names import OtherNames, Segment, Shape, fits
from loratools.names.towers import Tower, may_be_in, shown_by, tower_of
from loratools.names.wrappers import unwrapped


@final
@dataclass(frozen=True)
class Found:
    """What a target means in one model: one of the model's names, and how the names differ.

    `renaming` is None if the names are equal. `segments` are the stored rows that the rows of the
    target are; with `is_transposed`, the target's rows are columns of them. `is_exchanged` is
    whether the name alone says so.
    """

    name: str
    renaming: str | None
    segments: tuple[Segment, ...]
    is_transposed: bool
    is_exchanged: bool


@final
@dataclass(frozen=True)
class Names:
    """The names of one model's tensors, its own and others, searchable by suffixes of names.

    `root` is what precedes the model's own names in its base, for messages.
    """

    others: OtherNames
    root: str = ""

    @cached_property
    def shapes(self) -> Mapping[str, Shape]:
        """The shapes of the model's tensors by all their names."""
        return self.others.shapes()

    @cached_property
    def _by_leaf(self) -> Mapping[str, tuple[str, ...]]:
        """Names by their last two parts, which names with a common suffix share at least."""
        groups: dict[str, list[str]] = {}
        for name in self.shapes:
            groups.setdefault(_leaf(name), []).append(name)
        return {leaf: tuple(group) for leaf, group in groups.items()}

    @cached_property
    def _beginnings(self) -> frozenset[str]:
        """The first words of all names."""
        return frozenset(name.partition(".")[0] for name in self.shapes)

    @cached_property
    def _shown(self) -> Tower | None:
        """Whether the model is shown to be an encoder of text or of images."""
        return shown_by(self.others.stored)

    @cached_property
    def _wrapped(self) -> Mapping[str, Mapping[str, str]]:
        """Names that have wrappers, and how they differ, by the names without wrappers."""
        groups: dict[str, dict[str, str]] = {}
        for name in self.shapes:
            if (plain := unwrapped(name)) != name:
                groups.setdefault(plain, {})[name] = f"with wrappers: {self.root}{name}"
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

    def find(self, target: str, shape: tuple[int, ...], *, may_transpose: bool) -> Found | None:
        """Find the tensor that `target` means, with this shape or, where allowed, its transpose.

        A flattened target of a 1x1 convolution may mean a linear layer, and the other way round:
        models have changed between the two.

        Raises:
            MatchError: several tensors fit equally well.
        """
        is_flattened = flattened_path(target) is not None

        def found(name: str, renaming: str | None) -> Found | None:
            own = self.shapes[name]
            if is_flattened:
                is_it = fits(without_kernel(own), without_kernel(shape))
            else:
                is_it = fits(own, shape)
            if not is_it and may_transpose and not is_flattened and fits(own, shape[::-1]):
                return self._found(name, renaming, shape[::-1], is_swapped=True)
            return self._found(name, renaming, shape) if is_it else None

        return self._search(target, found)

    def find_name(self, target: str) -> Found | None:
        """Find the whole tensor that `target` means, whatever its shape; None if there is none.

        Without a shape to tell them apart, the head `classifier` could be taken for the
        `router.classifier` of any layer. So a target outside of the layers never means a tensor
        inside of one.

        Raises:
            MatchError: several tensors fit equally well.
        """

        def found(name: str, renaming: str | None) -> Found | None:
            shape = self.shapes[name]
            if (_is_in_layer(name) and not _is_in_layer(target)) or None in shape:
                return None
            whole = cast("tuple[int, ...]", shape)
            match = self._found(name, renaming, whole)
            return match if match is not None and self._is_whole(match) else None

        return self._search(target, found)

    def _is_whole(self, found: Found) -> bool:
        segments = found.segments
        return len(segments) == 1 and self._is_all(segments[0]) and not found.is_exchanged

    def _found(
        self, name: str, renaming: str | None, shape: tuple[int, ...], *, is_swapped: bool = False
    ) -> Found | None:
        """What is meant by a name and a shape, if the stored tensors have all of its rows.

        `is_swapped` is whether the target has the axes of this shape exchanged.
        """
        is_exchanged = self.others.is_transposed(name)
        is_transposed = is_swapped != is_exchanged
        count = (shape[-1] if is_exchanged else shape[0]) if shape else 1
        segments = self.others.segments(name, count)
        if segments is None:
            return None
        if name not in self.others.stored:  # which rows they are says more than how names differ
            renaming = self._rows(segments)
        return Found(name, renaming, segments, is_transposed, is_exchanged)

    def _search(
        self, target: str, found: Callable[[str, str | None], Found | None]
    ) -> Found | None:
        if target in self.shapes and (match := found(target, None)):
            return match
        for stage in self._stages(target):
            fitting = [m for name, renaming in stage.items() if (m := found(name, renaming))]
            meanings = {match.segments: match for match in reversed(fitting)}
            if len(meanings) > 1:
                names = listing(f"{self.root}{match.name}" for match in fitting)
                raise MatchError(
                    f"{shorten(target)}: several base tensors fit equally well: {names}",
                    tensor=target,
                )
            if fitting:
                return fitting[0]
        return None

    def _stages(self, target: str) -> Iterator[Mapping[str, str]]:
        """Groups of base names to try in order, each with how its names differ from the target."""
        tower = tower_of(target) or tower_of(self.root)
        for stage in self._similar(target):
            yield {
                name: renaming
                for name, renaming in stage.items()
                if tower is None or may_be_in(tower, f"{self.root}{name}", self._shown)
            }

    def _similar(self, target: str) -> Iterator[Mapping[str, str]]:
        """The groups, whichever encoder their names are in."""
        path = flattened_path(target)
        if path is None:
            yield self._wrapped.get(target, {})
            yield self._renamed(target)
            yield self._same_end(target)
            return
        renamings = {
            name: f"flattened: {self.root}{name}"
            for name in self._by_ending.get(path, ())
            if _is_in_layer(_module(name)[-len(path) :]) == _is_in_layer(_module(name))
        }
        whole = {name: text for name, text in renamings.items() if endings(name)[0] == path}
        yield whole
        yield renamings

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
            name: f"the only name with the same suffix: {self.root}{name}"
            for name in names
            if (name.endswith(f".{target}") or self._is_wrapped(name, target))
            and _is_in_layer(name) == _is_in_layer(target)
        }

    def _is_wrapped(self, name: str, target: str) -> bool:
        """Whether a target is a name of the model inside of other modules than those it has."""
        around = target.removesuffix(f".{name}")
        return around != target and self._beginnings.isdisjoint(around.split("."))

    def complaint(self, target: str, shape: tuple[int, ...], hint: str = "") -> str:
        """Why no tensor is the one that `target` means; with a hint, or else the nearest names."""
        wanted = f"{shorten(target)} {list(shape)}"
        stages = ([target] if target in self.shapes else [], *self._stages(target))
        named = next((list(stage) for stage in stages if stage), [])
        if named:
            found = ", ".join(self._in_base(name) for name in named[:3])
            return f"{wanted}: the base has it with another shape: {found}"
        if hint:
            return f"{wanted}: no such tensor in the base; {hint}"
        near = listing(self._nearest(target), 3)
        return f"{wanted}: no such tensor in the base" + (f"; nearest: {near}" if near else "")

    def _in_base(self, name: str) -> str:
        """A tensor by its stored name and shape, or as the rows of stored ones that it is."""
        shape = self.shapes[name]
        count = shape[-1 if self.others.is_transposed(name) else 0] if shape else None
        segments = self.others.segments(name, count) if count is not None else None
        if name in self.others.stored or segments is None:
            root = self.root if name in self.others.stored else ""
            return f"{shorten(root + name)} {list(shape)}"
        if len(segments) == 1 and self._is_all(segments[0]):
            stored = segments[0].stored
            return f"{shorten(self.root + stored)} {list(self.others.stored[stored])}"
        return f"{shorten(name)} {list(shape)}, which is {self._rows(segments)}"

    def _is_all(self, segment: Segment) -> bool:
        """Whether a segment is all rows of its stored tensor."""
        stored = self.others.stored[segment.stored]
        return segment.size == (stored[0] if stored else 1)

    def _rows(self, segments: Iterable[Segment]) -> str:
        """Stored rows in words, for reports and messages."""
        return "; ".join(
            f"{self.root}{s.stored}"
            if self._is_all(s)
            else f"rows {s.at} to {s.at + s.size} of {self.root}{s.stored}"
            for s in segments
        )

    def _nearest(self, target: str) -> Iterable[str]:
        if flattened_path(target) is not None:
            return ()
        # Comparing letters takes milliseconds a name, so only names with common words are compared.
        words = set(target.split("."))
        names = self._by_leaf.get(_leaf(target)) or self.shapes
        pool = heapq.nlargest(30, names, key=lambda name: len(words.intersection(name.split("."))))
        return difflib.get_close_matches(target, pool, n=3, cutoff=0.3)


def _renamings(target: str) -> Iterator[tuple[str, str]]:
    for old, new in prefix_changes(target):
        yield new + target.removeprefix(old), described(old, new)


def _module(name: str) -> str:
    """The path of the module that has a parameter."""
    return name.rpartition(".")[0]


def _is_in_layer(name: str) -> bool:
    return any(part.isdigit() for part in name.split(".")[1:])


def _leaf(name: str) -> str:
    return ".".join(name.split(".")[-2:])
