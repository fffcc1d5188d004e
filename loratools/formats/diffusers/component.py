"""Decodes the tensors of one component of a pipeline, which are those of a PEFT adapter."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple, final

from loratools.deltas.lora import Scaling
from loratools.errors import listing, shorten
from loratools.formats._modules.alphas import ALPHA, read_alphas, scaling_of
from loratools.formats._peft.announced import announced_parts, other_ranks
from loratools.formats._peft.codecs import codecs_of
from loratools.formats._peft.config import PeftConfig, Unstated, parse_config
from loratools.formats._peft.keys import Parts
from loratools.formats._peft.kinds import Modules
from loratools.formats._peft.peft_type import PeftType
from loratools.formats._peft.refusals import refused_settings
from loratools.formats._peft.updates import Decoder
from loratools.formats.diffusers.keys import key_of
from loratools.formats.diffusers.metadata import Fields, as_config, of_component
from loratools.io.bundle import ConfigName
from loratools.io.source import Source
from loratools.parts import Note, Update


@final
class Component(NamedTuple):
    """A component of a file.

    Attributes:
        name: its name, empty in a file of a single model.
        fields: the fields that the metadata has for it; None where the file has no metadata.
        own: the scalings that alphas as tensors give to their modules.
        decoder: has decoded the tensors, by these fields or by what diffusers takes without them.
        decoded: the updates by their targets within the component, without regard to `own`.
    """

    name: str
    fields: Fields | None
    own: Mapping[str, Scaling]
    decoder: Decoder
    decoded: Mapping[str, Update]

    @property
    def config(self) -> PeftConfig:
        """The config that the tensors were decoded by."""
        return self.decoder.config

    def updates(self) -> Iterator[tuple[str, Update]]:
        """The updates by their full targets."""
        for target, update in self.decoded.items():
            own = None if self.fields else self.own.get(target.rpartition(".")[0])
            delta = update.delta if own is None else update.delta.with_scaling(own)
            # No update says that the weight may be transposed: in all models of a pipeline it is
            # stored as (out, in).
            yield key_of(self.name, target), Update(delta)

    def inert(self) -> Iterator[tuple[str, str]]:
        """The keys of alphas that do not count, each with the reason."""
        for scaling in self.own.values() if self.fields else ():
            assert scaling.source is not None
            yield scaling.source.keys[0], "the metadata says the alpha"

    def settings(self) -> Iterator[tuple[str, object]]:
        """The fields of the metadata that people should see."""
        fields = self.fields or {}
        for name in self.config.type.settings:
            if fields.get(name):
                yield key_of(self.name, name), fields[name]

    def notes(self) -> Iterator[Note]:
        """Notes on this component alone."""
        prefix = f"{self.name}: " if self.name else ""
        for note in self._notes():
            yield replace(note, message=f"{prefix}{note.message}")

    def _notes(self) -> Iterator[Note]:
        yield from self.decoder.notes
        yield from announced_parts(self.config, self.decoder.codecs, self._modules, {})
        yield from self._on_alphas()
        if self.fields is not None and not self.fields.get("target_modules"):
            yield Note(
                "problem",
                "the metadata has no target_modules for it, without which diffusers does not load "
                "the file",
            )
        if self.fields:
            yield from refused_settings(self.config)
            yield from other_ranks(self.decoder.other_ranks)

    @property
    def _modules(self) -> Modules:
        return self.decoder.parts.modules

    def _on_alphas(self) -> Iterator[Note]:
        """A note on alphas as tensors that are not those of the metadata."""
        own = self.own if self.fields else {}
        stated = {module: self.config.scaling(module).value for module in own}
        differing = [module for module, value in stated.items() if value != own[module].value]
        if differing:
            yield Note(
                "problem",
                f"alpha is a tensor as well, of another value than in the metadata, which counts: "
                f"{listing(differing, 3)}",
            )


def decode_component(
    name: str,
    modules: dict[str, dict[str, Source]],
    alphas: Mapping[str, Source],
    fields: Fields | None,
    stated: ConfigName,
    where: str,
    alpha: float | None,
) -> Component:
    """The component of this name.

    `modules` are its tensors by module and by part, and `alphas` those of its modules. `fields` are
    all fields in the metadata, None where there is none, and `stated` is where they were found.
    `alpha` is for modules of which neither says an alpha; None to take their ranks.

    Raises:
        FormatError: a part of an update is missing, or a field cannot be read.
        ShapeMismatchError: the factors of a module do not fit each other.
        UnsupportedError: an update has no counterpart in the shape of a weight.
    """
    where = f"{where}: {name}" if name else where
    codecs = codecs_of("LORA")
    own_fields = None if fields is None else of_component(fields, name)
    if name:
        stated = replace(stated, part=f"{stated.part}: {name}" if stated.part else name)
    if own_fields:
        parsed = parse_config(as_config(own_fields), stated, codecs.type)
        config = replace(parsed, origin="metadata")
    else:
        config = _inferred(modules, stated, codecs.type, alpha)
    decoder = Decoder(where, codecs, config.about([*modules]), Parts(modules=modules), "auto")
    decoded = decoder.all_updates()
    numbers = read_alphas(alphas)
    own = {
        module: scaling_of(
            f"{where}: {shorten(module)}.{ALPHA}",
            source,
            numbers.get(module),
            rank=modules[module]["lora_A"].shape[0],
        )
        for module, source in alphas.items()
    }
    return Component(name, own_fields, own, decoder, decoded)


def _inferred(
    modules: Modules, where: ConfigName, type: PeftType, alpha: float | None
) -> PeftConfig:
    """The config that diffusers makes of the tensors of a file without metadata."""
    fields = {
        "use_dora": any("lora_magnitude_vector" in parts for parts in modules.values()),
        "lora_bias": any("lora_B.bias" in parts for parts in modules.values()),
    }
    downs = {m: parts["lora_A"] for m, parts in modules.items() if "lora_A" in parts}
    ranks = {m: (*down.shape, 1)[0] for m, down in downs.items()}
    return PeftConfig(where, type, fields, 1, 1.0, {}, {}, unstated=Unstated(ranks, alpha))
