"""Which of two models was made of the other, where their configs say so."""

from collections.abc import Iterator
from pathlib import Path

from loratools.hub.names import HubName, is_hub_name
from loratools.io.checkpoint import Checkpoint


def order_notes(tuned: Checkpoint, base: Checkpoint) -> Iterator[str]:
    """A note if the base's config names the tuned model as what it was made of.

    Tensors do not tell: the difference of two models is as good an adapter as its negative.
    """
    if _is_made_of(base, tuned) and not _is_made_of(tuned, base):
        yield (
            f"{base.where}: was made of {tuned.where}, as its config.json says (_name_or_path): "
            f"the model that was trained comes first, and then its base"
        )


def _is_made_of(model: Checkpoint, other: Checkpoint) -> bool:
    """Whether the config of a model names the other one, by its name on the Hub or its path."""
    named = (model.config or {}).get("_name_or_path")
    if not isinstance(named, str):
        return False
    if is_hub_name(other.where):
        return named == HubName.parse(other.where).repo
    # A relative path is one on the machine where the model was trained, and may mean anything here.
    if other.path is None or not Path(named).is_absolute():
        return False
    return other.path.absolute() == Path(named)
