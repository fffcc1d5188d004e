"""Provides the factors of an extraction: reused from an earlier run, or computed and stored."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import final

import torch

from loratools.extracting.difference import Difference, Memory
from loratools.extracting.pairing import Pair, Pairing
from loratools.extracting.parts import Part, Parts
from loratools.extracting.plan import ExtractOptions
from loratools.extracting.principal import Principal, principal
from loratools.io.file import InputFile
from loratools.lowrank.ranks import Wanted
from loratools.lowrank.seeds import seed_of
from loratools.running.share import Map
from loratools.version import __version__

#: The bytes of differences that are held in memory together; further ones are read again.
_HELD_BYTES = 128 * 2**20


@final
class Factoring:
    """Finds the factors of targets; `reused` counts those that an earlier run had finished.

    `tick` is called with the number of bytes of each difference, and without an argument for each
    block; if it raises, the work stops.
    """

    def __init__(
        self,
        pairing: Pairing,
        options: ExtractOptions,
        parts: Parts,
        tick: Callable[..., None],
        each: Map,
    ) -> None:
        self.reused = 0
        self._pairs = pairing.pairs
        self._options = options
        self._parts = parts
        self._tick = tick
        self._each = each
        self._memory = Memory(_HELD_BYTES)

    def __call__(self, questions: Sequence[tuple[str, Wanted]]) -> list[Part]:
        """The parts of some targets, in their order."""
        # An embedding and a head that are tied are one tensor, and have one part. The largest
        # tensors come first: started last, one would keep a thread busy while all others wait.
        own = [(self._pairs[target].twin or target, wanted) for target, wanted in questions]
        work = sorted(dict.fromkeys(own), key=lambda each: -self._pairs[each[0]].after.nbytes)
        found = dict(zip(work, self._each(self._find, work), strict=True))
        return [found[question] for question in own]

    def _find(self, question: tuple[str, Wanted]) -> Part:
        target, wanted = question
        pair = self._pairs[target]
        what = [target, *pair.names, asdict(wanted)]
        part = self._parts.find(what)
        if part is None:
            part = self._parts.store(what, self._principal(target, pair, wanted))
        else:
            self.reused += 1
        self._tick(pair.after.nbytes)
        return part

    def _principal(self, target: str, pair: Pair, wanted: Wanted) -> Principal:
        difference = Difference(pair.after, pair.before, self._tick)
        found = principal(
            difference,
            wanted,
            least=self._options.least(difference.noise),
            dtype=self._options.stored_dtype,
            seed=seed_of(0, target),
            memory=self._memory,
            device=self._options.device,
        )
        pair.forget()
        return found


def identity(pairing: Pairing, options: ExtractOptions) -> list[object]:
    """All that the bytes of every part depend on: programs, inputs, and how factors are stored."""
    files = [
        [str(file.path.resolve()), file.size, file.path.stat().st_mtime_ns]
        for file in input_files(pairing)
    ]
    programs = [__version__, torch.__version__, options.device]
    return [*programs, options.stored_dtype, options.min_change, files]


def input_files(pairing: Pairing) -> Iterator[InputFile]:
    """The files of both models' weights."""
    for model in (pairing.tuned, pairing.base):
        yield from model.files
