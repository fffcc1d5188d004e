"""Reads MLX's adapters: factors in MLX's orientation, and one scale for all of them."""

import re
from collections.abc import Iterable, Iterator, Mapping

from loratools.adapter import Adapter
from loratools.errors import UnsupportedError, about, listing, shorten
from loratools.formats import Sureness
from loratools.formats._modules.spelling import Spelling
from loratools.formats._part_names import named_part, possible_part
from loratools.formats.mlx.config import MlxConfig, parse_config
from loratools.formats.mlx.modules import LORA_A, LORA_B, MAGNITUDE, decoded, rank_of
from loratools.io.bundle import Bundle
from loratools.io.source import Source
from loratools.parts import Filed, Note, Provenance, Replacement, Update, stated_in

_FACTORS = Spelling({f".{part}": part for part in (LORA_A, LORA_B)})
_MAGNITUDES = Spelling({f".{MAGNITUDE}": MAGNITUDE})
_ENDS = tuple(_FACTORS.parts)
#: What MLX's wrappers call the layer that they wrap.
_WRAPPED = (".linear", ".embedding")
#: Parts of LoRAs in other formats: PEFT's `lora_A`, for one.
_OTHER = re.compile(r"(^|\.)lora_[^.]*(\.|$)")
_SETTINGS = ("fine_tune_type", "num_layers", "lora_layers", "lora_parameters")


def claim(bundle: Bundle) -> Sureness:
    """How sure MLX's dialect is: only MLX calls factors `lora_a` and `lora_b`."""
    config = bundle.config or {}
    if any(key.endswith(_ENDS) for key in bundle.tensors):
        return Sureness.CONFIG if "lora_parameters" in config else Sureness.KEYS
    is_full = config.get("fine_tune_type") == "full" and "num_layers" in config
    is_whole = bool(bundle.tensors) and not any(map(_part, bundle.tensors))
    return Sureness.CONFIG if is_full and is_whole else Sureness.NO


def decode(bundle: Bundle, options: Mapping[str, str]) -> Adapter:
    """The adapter in MLX's files; with `fine_tune_type: full`, all of its tensors are whole.

    Raises:
        FormatError: a field of the config has the wrong type, or a factor is missing.
        ShapeMismatchError: the tensors of a module do not fit each other.
        UnsupportedError: there is a part of an update that MLX does not have.
    """
    fields = bundle.config or {}
    with bundle.config_name.errors():
        config = parse_config(fields, options["scale"])
    modules, whole = _sorted(bundle)
    updates = {}
    for name, parts in modules.items():
        with about(name):
            where = f"{bundle.where}: {shorten(name)}"
            updates[f"{name}.weight"] = decoded(where, name, parts, config)
    replaced = dict(_replaced(bundle.where, whole, modules))
    base = fields.get("model")
    return Adapter(
        where=bundle.where,
        updates=updates,
        replaced=replaced,
        rows={},
        copies=(),
        inert={},
        provenance=Provenance(base=base if isinstance(base, str) and base else None),
        notes=stated_in(bundle.config_file, _notes(config, updates, modules, replaced)),
        companions=bundle.companions,
        nbytes=bundle.nbytes,
        filed=Filed(
            dialect="mlx",
            config=bundle.config,
            metadata=bundle.metadata,
            settings={name: fields[name] for name in _SETTINGS if fields.get(name) is not None},
            order=tuple(bundle.tensors),
        ),
    )


def _sorted(bundle: Bundle) -> tuple[Mapping[str, Mapping[str, Source]], Mapping[str, Source]]:
    """The parts of each module with a factor, and the other tensors by their keys."""
    modules: dict[str, dict[str, Source]] = {}
    for key, source in bundle.tensors.items():
        if split := _FACTORS.split(key):
            modules.setdefault(split.module, {})[split.part] = source
    whole = {}
    for key, source in bundle.tensors.items():
        split = _MAGNITUDES.split(key)
        if split is not None and split.module in modules:
            modules[split.module][split.part] = source
        elif _FACTORS.split(key) is None:
            whole[key] = source
    return modules, whole


def _replaced(
    where: str, whole: Mapping[str, Source], modules: Iterable[str]
) -> Iterator[tuple[str, Replacement]]:
    """Whole tensors by target; those inside of MLX's wrappers are the base's own."""
    names = frozenset(modules)
    for key, source in whole.items():
        owner, _, parameter = key.rpartition(".")
        if kind := _part(key) or (owner in names and possible_part(key)):
            raise UnsupportedError(
                f"{where}: {shorten(key)}: {kind}, which MLX does not have", tensor=key
            )
        inner = next((owner.removesuffix(end) for end in _WRAPPED if owner.endswith(end)), None)
        if inner in names:
            yield f"{inner}.{parameter}", Replacement(source, is_trained=False)
        else:
            yield key, Replacement(source, is_trained=True)


def _part(key: str) -> str | None:
    """A description of the part that a key names, if it can only be one of an update."""
    return named_part(key) or ("a part of another LoRA" if _OTHER.search(key) else None)


def _notes(
    config: MlxConfig,
    updates: Mapping[str, Update],
    modules: Mapping[str, Mapping[str, Source]],
    replaced: Mapping[str, Replacement],
) -> Iterator[Note]:
    if updates:
        yield from config.notes
    if config.type != "full" and replaced:
        yield Note("problem", f"mlx-lm loads no whole tensors: {listing(replaced, 3)}")
    with_magnitude = [name for name, parts in modules.items() if MAGNITUDE in parts]
    if config.type == "dora" and len(with_magnitude) < len(modules):
        without = [name for name in modules if name not in with_magnitude]
        yield Note(
            "refusal",
            f"fine_tune_type is dora, and no magnitudes are stored for {listing(without, 3)}: "
            f"mlx-lm takes the norms of the base for them",
        )
    elif config.type != "dora" and with_magnitude:
        yield Note(
            "problem",
            f"magnitudes are stored, so this is a DoRA, but fine_tune_type is {config.type}, with "
            f"which mlx-lm does not load it: {listing(with_magnitude, 3)}",
        )
    unnamed = [name for name in modules if not config.names(name)]
    if unnamed:
        yield Note("problem", f"not in keys, so mlx-lm does not load it: {listing(unnamed, 3)}")
    ranks = {name: rank_of(update.delta) for name, update in updates.items()}
    others = [name for name, rank in ranks.items() if config.rank not in (None, rank)]
    if others:
        found = listing(dict.fromkeys(str(ranks[name]) for name in others))
        yield Note(
            "problem",
            f"lora_parameters has a rank of {config.rank}, and tensors have {found}, with which "
            f"mlx-lm does not load them: {listing(others, 3)}",
        )
