"""The names that the tensors of a single file have in a folder of diffusers, with their component.

diffusers' adapters have these names, so an adapter of such a model can be for image programs.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple, final

from loratools.names.patterns import depths_of
from loratools.names.pipeline import Component, components_of
from loratools.names.rules import Part, Rows


@final
class Origin(NamedTuple):
    """The stored tensor that one of diffusers is: runs of its rows in this order, or all of it.

    A run is its first and last row. With `is_transposed`, the axes are exchanged.
    """

    stored: str
    runs: tuple[tuple[int, int], ...] | None = None
    is_transposed: bool = False


def as_folder(shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Origin] | None:
    """The tensors of a single file by the names that they have in a folder, in the file's order.

    Those that have none there, and those of other models than denoisers and text encoders, keep
    their own. None if this is no such file, or the names leave open which rows are whose.
    """
    components = components_of(shapes)
    denoisers = [component for component in components if component.part == "denoiser"]
    if len(denoisers) != 1 or not denoisers[0].found or _is_of_diffusers(denoisers[0]):
        return None
    origins: dict[str, tuple[tuple[str, Origin], ...]] = {}
    for component in components:
        found = _in_component(component, _name(component, components))
        if found is None:
            return None
        origins |= found
    counts = Counter(name for some in origins.values() for name, _ in some)
    folder: dict[str, Origin] = {}
    for name in shapes:
        some = origins.get(name, ())
        are_own = some and all(counts[other] == 1 for other, _ in some)
        folder.update(some if are_own else ((name, Origin(name)),))
    return folder


def _in_component(
    component: Component, name: str | None
) -> dict[str, tuple[tuple[str, Origin], ...]] | None:
    """The tensors of diffusers that each stored one consists of; None if they cannot be told."""
    if name is None:
        return {}
    depths = depths_of(component.shapes)
    found = {}
    for own, shape in component.shapes.items():
        parts = _parts(component, own, depths)
        if any(part.rows.part_rows(0) is None for part in parts):
            return None
        stored = f"{component.root}{own}"
        found[stored] = tuple(_origins(f"{name}.", stored, shape, parts))
    return found


def _is_of_diffusers(component: Component) -> bool:
    """Whether a model is one of diffusers' own files, which has no component's name before it."""
    return (
        not component.root and component.found is not None and component.found.side == "diffusers"
    )


def _name(component: Component, all_of_them: tuple[Component, ...]) -> str | None:
    """Diffusers' name of a component; None if it is not known."""
    parts = {other.part for other in all_of_them}
    if component.part == "denoiser":
        return component.found.architecture.component if component.found else None
    if "other" in parts:
        return None  # where a language model reads the prompt, it may be the first text encoder
    if component.part == "clip":
        return "text_encoder"
    if component.part == "clip_g":
        return "text_encoder_2"
    if component.part == "t5" and parts & {"clip", "clip_g"}:
        return "text_encoder_3" if "clip_g" in parts else "text_encoder_2"
    return None


def _parts(component: Component, name: str, depths: Mapping[str, int]) -> tuple[Part, ...]:
    """The tensors of diffusers that a stored one consists of; none if it has no such tensor."""
    found = component.found
    if found is None or found.side == "diffusers":
        return (Part(name, name, Rows()),)
    return found.architecture.rules.parts(name, depths) or ()


def _origins(
    prefix: str, stored: str, shape: tuple[int, ...], parts: tuple[Part, ...]
) -> Iterator[tuple[str, Origin]]:
    """What the parts of a tensor are; nothing if they are not all of its rows, or reshaped."""
    count = shape[0] if shape else 1
    runs = [part.rows.resolved(count, part.rows.part_rows(count) or 0) for part in parts]
    covered = sorted(run for some in runs for run in some or ())
    ends = [0, *(last for _, last in covered)]
    if [first for first, _ in covered] + [count] != ends:
        return
    for part, some in zip(parts, runs, strict=True):
        if part.rows.is_reshaped:
            return
        is_whole = some == ((0, count),) and not part.rows.is_transposed
        yield (
            f"{prefix}{part.diffusers}",
            Origin(stored, None if is_whole else some, part.rows.is_transposed),
        )
