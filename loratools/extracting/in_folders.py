"""The tensors of an image model as a folder of diffusers has them, whichever layout they are in."""

from collections.abc import Iterator, Mapping

from loratools.io.checkpoint import Checkpoint
from loratools.io.picked import Picked
from loratools.io.source import Stored
from loratools.names.as_folder import as_folder
from loratools.names.pipeline import components_of, recognition


def in_folder(
    model: Checkpoint, tensors: Mapping[str, Stored]
) -> Mapping[str, Stored | Picked] | None:
    """A pipeline's tensors by their names in a folder of diffusers; None if it is no pipeline.

    Those of a single file may be rows of the stored ones; see `as_folder`.
    """
    if model.is_pipeline:
        return tensors
    origins = as_folder({name: tensor.shape for name, tensor in tensors.items()})
    if origins is None:
        return None
    return {
        name: tensors[origin.stored]
        if origin.runs is None
        else Picked(tensors[origin.stored], origin.runs, origin.is_transposed)
        for name, origin in origins.items()
    }


def not_in_folder(tensors: Mapping[str, Stored | Picked]) -> Iterator[str]:
    """Say that an image model in the original layout keeps its own names in an extraction."""
    components = components_of({name: tensor.shape for name, tensor in tensors.items()})
    if any(c.part == "denoiser" and c.found and c.found.side == "original" for c in components):
        yield (
            f"{recognition(components)}; the rows and names of its tensors in diffusers are not "
            f"known for both models, so the adapter has its own names, which few programs read"
        )
