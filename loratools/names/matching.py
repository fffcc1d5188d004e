"""Finds the tensors of a base that an adapter's target means, in whichever layout both are.

A base that is recognised consists of components (`pipeline.py`); a prefix of the target says which
of them it is in. Its tensors have names in all layouts of its architecture (`other_names.py`), so a
target can be some rows of a tensor, or several tensors. Any other base is searched by its own names
(`search.py`), and by those of the parts of fused weights (`modules.py`).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import final

from loratools.deltas.placed import Run
from loratools.errors import MatchError, listing, shorten
from loratools.names.architectures import Architecture, architectures
from loratools.names.components import labelled
from loratools.names.flattened import flattened_path
from loratools.names.looks import Kind, kind_of
from loratools.names.modules import hint, parts_in
from loratools.names.nestings import described
from loratools.names.other_names import OtherNames, Segment
from loratools.names.pipeline import (
    Component,
    called,
    components_of,
    meant,
    recognition,
    root_of,
    with_root,
)
from loratools.names.search import Found, Names
from loratools.typed import valued


@final
@dataclass(frozen=True)
class Place:
    """A base tensor and the rows of a target that belong to it: rows `begin` to `end`.

    `runs` say which rows of the base tensor they are, counted from `begin`.
    """

    name: str
    begin: int
    end: int
    runs: tuple[Run, ...]

    def is_whole(self, target: tuple[int, ...], stored: tuple[int, ...]) -> bool:
        """Whether a target of this shape is the whole base tensor, its rows in their order."""
        rows = stored[0] if stored else 1
        return self.runs == (Run(0, 0, rows),) and (target[0] if target else 1) == rows


@final
@dataclass(frozen=True)
class Match:
    """The base tensors that a target means, how their names differ, and whether axes are swapped.

    `renaming` is None if the names are equal. `is_transposed` is whether the base stores the axes
    in the other order than the target has them; `is_exchanged` is whether the target's name says
    so, whatever its shape. The places are in the order of the target's rows, or of its columns if
    the axes are swapped.
    """

    places: tuple[Place, ...]
    renaming: str | None
    is_transposed: bool
    is_exchanged: bool = False

    @property
    def name(self) -> str:
        """The name of the only base tensor, or of the first."""
        return self.places[0].name


@final
@dataclass(frozen=True)
class BaseNames:
    """The names and shapes of a base's tensors, in which targets are looked up.

    `models` are the types of the models that its config describes (`models_of`), which tell in
    which order the rows of fused weights are.
    """

    shapes: Mapping[str, tuple[int, ...]]
    models: frozenset[str] = frozenset()

    @cached_property
    def components(self) -> tuple[Component, ...]:
        """The models that the base consists of; none if it is not one that is known."""
        return components_of(self.shapes)

    @property
    def words(self) -> str | None:
        """What the base was recognised as, in words; None if it was not."""
        return recognition(self.components)

    @cached_property
    def kind(self) -> Kind | None:
        """The kind of model that the base is, as far as names tell: text encoders are of both."""
        if any(component.part == "denoiser" for component in self.components):
            return "an image model"
        return None if self.words else kind_of(self.shapes)

    @cached_property
    def _all(self) -> Names:
        """All names of the base, as one model."""
        others = OtherNames(self.shapes)
        for parts in parts_in(self.shapes, self.models):
            others.add_parts(parts)
        return Names(others)

    @cached_property
    def _in_components(self) -> Mapping[str, Names]:
        """The names of each component by its root."""
        return {component.root: _names(component) for component in self.components}

    def match(
        self,
        target: str,
        shape: tuple[int, ...],
        *,
        may_transpose: bool = False,
        takes: Callable[[str], bool] | None = None,
    ) -> Match:
        """Find the tensors that `target` means, with this shape or, where allowed, its transpose.

        If it fits several models of the base, those are meant whose tensors `takes` selects.

        Raises:
            MatchError: no tensor fits, or several fit equally well; the message has the nearest.
        """
        if self.shapes.get(target) == shape:
            return _whole(target, shape)
        if not self.components:
            found = self._all.find(target, shape, may_transpose=may_transpose)
            if found is None:
                raise MatchError(
                    self._all.complaint(target, shape, hint(target, self.shapes, self.models))
                )
            return _match(found)
        inside, path = self._inside(target)
        matches = [
            _match(found, component.root, target.removesuffix(path))
            for component in inside
            if (found := self._names(component).find(path, shape, may_transpose=may_transpose))
        ]
        if not matches:
            raise MatchError(self._complaint(target, path, shape, inside))
        return _only(target, matches, takes)

    def match_name(self, target: str, takes: Callable[[str], bool] | None = None) -> Match | None:
        """Find the whole tensor that `target` means, whatever its shape; None without one.

        If it fits several models of the base, those are meant whose tensors `takes` selects.

        Raises:
            MatchError: several tensors fit equally well.
        """
        if not self.components or target in self.shapes:
            found = self._all.find_name(target)
            return _match(found) if found else None
        inside, path = self._inside(target)
        matches = [
            _match(found, component.root, target.removesuffix(path))
            for component in inside
            if (found := self._names(component).find_name(path))
        ]
        return _only(target, matches, takes) if matches else None

    def has_rows(self, target: str, shape: tuple[int, ...]) -> bool:
        """Whether a target with this shape means any rows of the base."""
        try:
            return bool(self.match(target, shape))
        except MatchError:
            return False

    def lacking(self, target: str) -> str | None:
        """The model that the prefix of a target means, in words, if the base does not have it."""
        if not self.components or self._inside(target)[0]:
            return None
        label = labelled(target)[1]
        return called(label) if label else root_of(target).removesuffix(".") or None

    def not_there(self, model: str) -> str:
        """That the base does not have a model, with what it is."""
        return f"{model}, which the base does not have{self._said}"

    def _names(self, component: Component) -> Names:
        return self._in_components[component.root]

    def _inside(self, target: str) -> tuple[tuple[Component, ...], str]:
        """The components that a target may be in, and its name in them."""
        for component in self.components:
            if component.root and target.startswith(component.root):
                return (component,), target.removeprefix(component.root)
        prefix, label, rest = labelled(target)
        if not prefix and (root := root_of(target)):
            return with_root(self.components, root), target.removeprefix(root)
        path = target if flattened_path(target) is not None else rest
        inside = meant(self.components, label if prefix else None)
        # A model that has the whole name is meant before those that have it as a suffix.
        having = tuple(c for c in inside if self._names(c).others.has(path))
        return having or inside, path

    def _complaint(
        self, target: str, path: str, shape: tuple[int, ...], inside: Iterable[Component]
    ) -> str:
        for component in inside:
            return f"{self._names(component).complaint(path, shape)}{self._said}"
        model = self.lacking(target) or "any model"
        return f"{shorten(target)}: a module of {self.not_there(model)}"

    @property
    def _said(self) -> str:
        """What the base was recognised as, for the end of a message."""
        return f" (it is {self.words})" if self.words else ""


def _names(component: Component) -> Names:
    others = OtherNames(component.shapes)
    others.add(_layouts(component))
    return Names(others, component.root)


def _layouts(component: Component) -> Iterable[Architecture]:
    """The architectures whose layouts a component's tensors have names in."""
    if component.found is None:
        return ()
    kind = component.found.architecture.component
    if kind in ("unet", "transformer"):
        return (component.found.architecture,)
    # Of a text encoder, the names by OpenCLIP are other names of those by transformers.
    return tuple(a for a in architectures() if a.component == kind)


def _whole(name: str, shape: tuple[int, ...]) -> Match:
    """The match of a tensor with its own name and shape."""
    rows = shape[0] if shape else 1
    return Match((Place(name, 0, rows, (Run(0, 0, rows),)),), None, is_transposed=False)


def _match(found: Found, root: str = "", prefix: str = "") -> Match:
    """What was found in the model with this root, of a target that has this prefix."""
    groups: dict[str, list[Segment]] = {}
    for segment in found.segments:
        groups.setdefault(segment.stored, []).append(segment)
    places = []
    for stored, segments in groups.items():
        begin = min(s.begin for s in segments)
        runs = tuple(Run(s.begin - begin, s.at, s.size) for s in segments)
        end = begin + sum(run.count for run in runs)
        places.append(Place(f"{root}{stored}", begin, end, runs))
    renaming = found.renaming or (described(prefix, root) if prefix != root else None)
    return Match(tuple(places), renaming, found.is_transposed, found.is_exchanged)


def _only(target: str, matches: list[Match], takes: Callable[[str], bool] | None) -> Match:
    """The only match, or the only selected one, if all of them mean the same tensors.

    Raises:
        MatchError: they do not.
    """
    if takes is not None and len(matches) > 1:
        matches = [m for m in matches if any(takes(place.name) for place in m.places)] or matches
    if len({match.places for match in matches}) > 1:
        names = listing(match.name for match in matches)
        raise MatchError(
            f"{shorten(target)}: several base tensors fit equally well: {names}",
            tensor=target,
            hint=f"{valued('only')} or {valued('skip')} says which" if takes else None,
        )
    return matches[0]
