"""Decodes the sorted tensors of a PEFT adapter to updates, module by module."""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple, final

from loratools.errors import FormatError, UnsupportedError, about, shorten
from loratools.formats._peft.codecs import Codecs
from loratools.formats._peft.config import PeftConfig
from loratools.formats._peft.keys import OUT_PROJ_TIMES, Parts
from loratools.formats._peft.kinds import StoredModule
from loratools.io.source import Source
from loratools.parts import Note, Update
from loratools.typed import of_format

#: The last PEFT that is known to apply the update of a MultiheadAttention's out_proj twice, in
#: training and in merging. All versions do since 0.15, the first with such updates. Files without a
#: version were written before 0.18.
_OUT_PROJ_TWICE_UNTIL = (0, 21, 2)
#: The trap that notes on such an update are about.
_TRAP = "out-proj"
_NESTED = re.compile(r"\.base_layer(\.|$)")


@final
class _Target(NamedTuple):
    """The parameters that a module's update changes.

    Attributes:
        path: the module's name, which the config's patterns are matched against.
        parameter: the target of the weight.
        bias: the target of the bias.
        times: how many times the update of the weight was applied.
    """

    path: str
    parameter: str
    bias: str
    times: int = 1


@final
class Decoder:
    """Decodes the parts of each module to updates, and collects notes on them.

    `where` names the adapter in messages. `modules` are the paths of the modules so far.
    `other_ranks` has the modules whose tensors have another rank than the config says: see
    `other_ranks` in `announced.py`.
    """

    def __init__(
        self, where: str, codecs: Codecs, config: PeftConfig, parts: Parts, out_proj: str
    ) -> None:
        self.where = where
        self.codecs = codecs
        self.config = config
        self.parts = parts
        self.out_proj = out_proj
        self.attention_modules = parts.attention_modules()
        self.shortcuts = [s for kind in codecs.kinds if (s := kind.shortcut(config))]
        self.modules: list[str] = []
        self.notes: list[Note] = []
        self.other_ranks: dict[tuple[int, int, bool], list[str]] = {}

    def all_updates(self) -> dict[str, Update]:
        """The updates of all modules, by target."""
        updates: dict[str, Update] = {}
        for module, roles in self.parts.modules.items():
            with about(module):
                usual = self._usual_update(module, roles)
                found = ((f"{module}.weight", usual),) if usual else self._updates(module, roles)
                for name, update in found:
                    if name in updates:
                        what = f"{self.where}: {shorten(name)} has two updates"
                        raise FormatError(what, tensor=name)
                    updates[name] = update
        return updates

    def _usual_update(self, module: str, roles: Mapping[str, Source]) -> Update | None:
        """The weight's update of a module of the usual form without wrappers, faster.

        None for all other modules: whatever is refused or noted is left to `_updates`.
        """
        if ".base_layer" in module or module in self.attention_modules:
            return None
        for shortcut in self.shortcuts:
            if update := shortcut(module, roles):
                self.modules.append(module)
                return update
        return None

    def _updates(self, module: str, roles: Mapping[str, Source]) -> Iterator[tuple[str, Update]]:
        """The updates of a module's weight and of its other parameters, by target."""
        kind = self.codecs.kind_of(self.where, module, roles)
        target = self._target(module)
        self.modules.append(target.path)
        stored = StoredModule(
            where=self.where,
            config=self.config,
            path=target.path,
            weight=target.parameter,
            bias=target.bias,
            times=target.times,
            roles=roles,
            modules=self.parts.modules,
            shared=self.parts.shared,
            inert=self.parts.inert,
        )
        found = list(kind.decode(stored))
        update = found[0][1]
        self._compare_rank(target.path, kind.stored_rank(stored, update), update.delta.shape)
        yield from found
        for codec in self.codecs.beside:
            if codec.role in roles:
                yield from codec.decode(stored, update)

    def _target(self, module: str) -> _Target:
        if module in self.attention_modules:
            return _Target(module, f"{module}.in_proj_weight", f"{module}.in_proj_bias")
        path = path_of(module)
        if path != module:
            inner = f"{path}.out_proj"
            times = self._out_proj_times(inner)
            return _Target(path, f"{inner}.weight", f"{inner}.bias", times)
        if _NESTED.search(module):
            raise UnsupportedError(
                f"{self.where}: {shorten(module)}: nested wrappers (target_parameters, "
                f"fused experts) cannot be merged yet",
                tensor=module,
            )
        return _Target(module, f"{module}.weight", f"{module}.bias")

    def _out_proj_times(self, module: str) -> int:
        if self.out_proj != "auto":
            times = {"once": 1, "twice": OUT_PROJ_TIMES}[self.out_proj]
            self.notes.append(Note("info", f"{module}: counts {self.out_proj}, as asked", _TRAP))
            return times
        version = self.config.text("peft_version")
        if self.config.version <= _OUT_PROJ_TWICE_UNTIL:
            self.notes.append(
                Note(
                    "info",
                    f"{module}: the update counts twice, as PEFT {version or 'before 0.18'} "
                    f"applied it in training and in merging ({of_format('out_proj', 'once')} to "
                    f"change that)",
                    _TRAP,
                )
            )
            return OUT_PROJ_TIMES
        self.notes.append(
            Note(
                "refusal",
                f"{module}: PEFT up to 0.21.2 applies this update twice; whether {version} does "
                f"is not known here; say it with "
                f"{of_format('out_proj', 'once')} or {of_format('out_proj', 'twice')}",
                _TRAP,
            )
        )
        return 1

    def _compare_rank(self, path: str, rank: int | None, shape: tuple[int, ...]) -> None:
        if rank is not None and rank != (expected := self.config.expected_rank(path)):
            is_swapped = shape == (expected, expected)
            self.other_ranks.setdefault((expected, rank, is_swapped), []).append(path)


def path_of(module: str) -> str:
    """The name of a module that the config's patterns are matched against.

    For the out_proj of a MultiheadAttention this is the attention itself, as in PEFT.
    """
    return module.removesuffix(".base_layer.out_proj")
