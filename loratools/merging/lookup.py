"""Where a merge looks up what adapters change: in the base's tensors, tied and packed ones too."""

from collections.abc import Callable
from typing import final

from loratools.errors import MatchError
from loratools.io.checkpoint import Checkpoint
from loratools.names.matching import BaseNames, Match
from loratools.names.modules import models_of
from loratools.names.packed import Packed
from loratools.names.tied import find_used_head


@final
class Lookup:
    """The names and shapes of a base's tensors as adapters added so far have made them.

    They are more than those stored: an adapter may name a tied head that is not stored, and names a
    packed weight as if it were plain.
    """

    def __init__(self, base: Checkpoint, packed: Packed) -> None:
        self.tied = find_used_head(base.tensors, base.config)
        self.packed = packed
        shapes = {name: stored.shape for name, stored in base.tensors.items()}
        if self.tied is not None:
            shapes.setdefault(self.tied.head, shapes[self.tied.embedding])
            self.packed = packed.with_tied(self.tied.embedding, self.tied.head)
        self.names = BaseNames({**shapes, **self.packed.shapes}, models_of(base.config))

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor of the base."""
        return self.names.shapes[name]

    def replaced(self, name: str, shape: tuple[int, ...]) -> None:
        """Note the shape of a tensor that an adapter has replaced."""
        if self.names.shapes.get(name) != shape:
            self.names = BaseNames({**self.names.shapes, name: shape}, self.names.models)

    def match(
        self,
        target: str,
        shape: tuple[int, ...],
        *,
        may_transpose: bool,
        takes: Callable[[str], bool],
    ) -> Match:
        """Find the tensors that an update's target means; errors as for `BaseNames.match`."""
        try:
            match = self.names.match(target, shape, may_transpose=may_transpose, takes=takes)
        except MatchError:
            packed = self.packed.or_packed(target, None)
            if packed is None:
                raise
            return packed
        return self.packed.or_packed(target, match) or match

    def match_name(self, target: str, takes: Callable[[str], bool]) -> Match | None:
        """Find the whole tensor that a target means; errors as for `BaseNames.match_name`."""
        return self.packed.or_packed(target, self.names.match_name(target, takes))
