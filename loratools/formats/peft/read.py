"""Reads PEFT's adapters: `adapter_config.json` and `adapter_model.safetensors`."""

from collections.abc import Mapping
from dataclasses import replace

from loratools.adapter import Adapter
from loratools.errors import UnsupportedError, listing
from loratools.formats import Sureness
from loratools.formats._peft.announced import announced_of, announced_parts, other_ranks
from loratools.formats._peft.codecs import codecs_of, has_part, is_known
from loratools.formats._peft.config import parse_config
from loratools.formats._peft.keys import PREFIX, Parts, sort_keys
from loratools.formats._peft.refusals import refused_settings
from loratools.formats._peft.updates import Decoder, path_of
from loratools.formats.peft.notes import disagreements
from loratools.formats.peft.tokens import replaced_rows
from loratools.formats.peft.unstated import alpha_notes, unstated_codecs, unstated_config
from loratools.io.bundle import Bundle
from loratools.parts import Filed, Provenance, Replacement, stated_in


def claim(bundle: Bundle) -> Sureness:
    """How sure PEFT's dialect is: only with a config do keys say for certain what they mean."""
    peft_type = (bundle.config or {}).get("peft_type")
    keys = bundle.tensors
    has_keys = any(key.startswith(PREFIX) for key in keys) or has_part(keys)
    if is_known(peft_type) and has_keys:
        return Sureness.CONFIG
    is_named = bundle.config is not None and "peft_type" in bundle.config
    return Sureness.POSSIBLE if is_named or has_keys else Sureness.NO


def decode(bundle: Bundle, options: Mapping[str, str]) -> Adapter:
    """The adapter in PEFT's files.

    Raises:
        FormatError: the config is malformed, or missing where it is needed, or a part of an
            update is missing.
        ShapeMismatchError: the factors of a target do not fit each other.
        UnsupportedError: the `peft_type` has no codecs, or there is no tensor of an adapter.
    """
    if bundle.config is None:
        codecs = unstated_codecs()
        parts = sort_keys(bundle, codecs)
        config = unstated_config(bundle, codecs, parts, options["alpha"])
    else:
        with bundle.config_name.errors():
            codecs = codecs_of(bundle.config.get("peft_type"))
        config = parse_config(bundle.config, bundle.config_name, codecs.type)
        parts = sort_keys(bundle, codecs)
    config = config.about([path_of(module) for module in parts.modules])
    decoder = Decoder(bundle.where, codecs, config, parts, options["out_proj"])
    updates = decoder.all_updates()
    replaced = parts.replaced(config)
    if not (updates or parts.tokens or any(r.is_trained for r in replaced.values())):
        found = listing(bundle.tensors, 3) or "no tensors at all"
        raise UnsupportedError(f"{bundle.where}: holds no adapter tensor ({found})")
    parts.refuse_strays(config, bundle.where)
    version = config.text("peft_version")
    return Adapter(
        where=bundle.where,
        updates=updates,
        replaced=replaced,
        rows={f"{m}.weight": replaced_rows(config, m, rows) for m, rows in parts.tokens.items()},
        copies=parts.copies(),
        inert=parts.inert,
        provenance=Provenance(
            base=config.text("base_model_name_or_path"),
            revision=config.text("revision"),
            task=config.text("task_type"),
            trainer=f"peft {version}" if version else None,
        ),
        notes=(
            *stated_in(bundle.config_file, refused_settings(config)),
            *alpha_notes(config, options["alpha"]),
            *parts.notes,
            *decoder.notes,
            *stated_in(
                bundle.config_file,
                (
                    *other_ranks(decoder.other_ranks),
                    *announced_parts(config, codecs, parts.modules, parts.tokens),
                    *disagreements(config, decoder.modules, _kept_whole(parts, replaced)),
                ),
            ),
        ),
        companions=bundle.companions,
        nbytes=bundle.nbytes,
        announced=replace(
            announced_of(config, decoder.modules, replaced, parts.tokens), file=bundle.config_file
        ),
        filed=Filed(
            dialect="peft",
            config=bundle.config,
            metadata=bundle.metadata,
            settings={n: config.fields[n] for n in codecs.type.settings if config.fields.get(n)},
        ),
    )


def _kept_whole(parts: Parts, replaced: Mapping[str, Replacement]) -> tuple[str, ...]:
    """The targets of whole tensors, without the base's own that PEFT saves from its wrappers."""
    return tuple(
        name for name, r in replaced.items() if r.is_trained or name not in parts.base_layers
    )
