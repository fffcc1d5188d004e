"""The config of a written PEFT adapter: the one that was read, corrected where it is not true."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from loratools.adapter import Adapter
from loratools.deltas.lora import Rule
from loratools.errors import UnsupportedError, about, shorten
from loratools.formats._peft.codecs import Codecs
from loratools.formats._peft.config import PeftConfig, head_modules, parse_config
from loratools.formats._peft.config_initial import initial_config
from loratools.formats._peft.kinds import BesideCodec, KindCodec, WrittenModule
from loratools.formats._peft.peft_type import PeftType
from loratools.formats._peft.smallest import smallest_patterns
from loratools.io.bundle import ConfigName
from loratools.names.saved import SavedNames

_DEFAULTS: Mapping[str, Any] = {
    "task_type": None,
    "base_model_name_or_path": None,
    "inference_mode": True,
    "modules_to_save": None,
}
#: PEFT's own value of `target_modules` for an adapter without updates.
_NO_TARGETS = "dummy-target-modules"


@final
@dataclass(frozen=True)
class Contents:
    """The updates that are written: their kind, the parts beside them, modules and scaling rule."""

    kind: KindCodec | None
    beside: tuple[BesideCodec, ...]
    modules: tuple[WrittenModule, ...]
    rule: Rule


def config_of(adapter: Adapter, codecs: Codecs, stored: Contents) -> dict[str, Any]:
    """The config of an adapter whose tensors are `stored`.

    Fields that were read are kept where they are still true of the tensors.

    Raises:
        UnsupportedError: no config of PEFT can describe what is stored.
    """
    type = codecs.type
    config = {**_DEFAULTS, **type.defaults, **initial_config(adapter, type)}
    # The tensors are written in full, so fields that say how they were packed are emptied.
    config |= dict.fromkeys(filter(config.get, type.unpacked))
    if adapter.provenance.base is not None:
        config["base_model_name_or_path"] = adapter.provenance.base
    for codec, announcement in codecs.announced:
        is_stored = codec is stored.kind or codec in stored.beside
        announcement.write(config, is_stored=is_stored)
    if type.scaling is not None and type.scaling.sqrt_rank is not None:
        config[type.scaling.sqrt_rank] = stored.rule == "sqrt_rank"
    if stored.kind is not None:
        stored.kind.set_fields(config, stored.modules)
    where = ConfigName(adapter.where)
    _set_ranks(config, where, type, stored.modules)
    _set_replaced(config, adapter, type)
    _check(parse_config(config, where, type), stored.modules)
    return config


def _check(config: PeftConfig, modules: Sequence[WrittenModule]) -> None:
    """Read the written config back, and refuse it where it gives a module another meaning."""
    config = config.about([module.path for module in modules])
    for module in modules:
        if name := config.saves_whole(module.path):
            raise UnsupportedError(
                f"{config.where}: {shorten(module.path)}: PEFT saves {name!r} whole, and has no "
                f"place for a {config.type.title} on it as well",
                tensor=module.path,
            )
        if _numbers(config, module.path) != (module.rank, module.alpha):
            raise UnsupportedError(
                f"{config.where}: {shorten(module.path)}: PEFT has no pattern for this module "
                f"alone",
                tensor=module.path,
            )


def _set_ranks(
    config: dict[str, Any], where: ConfigName, type: PeftType, modules: Sequence[WrittenModule]
) -> None:
    """Make the config give every module its rank and its alpha, and name it as a target."""
    wanted = {module.path: (module.rank, module.alpha) for module in modules}
    # A config that was not read from a file has neither yet, and cannot be parsed.
    is_filed = (type.scaling.rank if type.scaling else "target_modules") in config
    known = parse_config(config, where, type).about(list(wanted)) if is_filed else None
    if known is None or any(_numbers(known, path) != both for path, both in wanted.items()):
        _set_patterns(config, type, wanted)
    if known is None or any(
        known.is_target(path) is False or known.leaves_out(path) for path in wanted
    ):
        config["target_modules"] = list(wanted) or _NO_TARGETS
        for narrowing in ("exclude_modules", "layers_to_transform", "layers_pattern"):
            if narrowing in type.fields:
                config[narrowing] = None


def _set_patterns(
    config: dict[str, Any], type: PeftType, wanted: Mapping[str, tuple[int, float]]
) -> None:
    """Set rank, alpha and their patterns, so that each path has its rank and alpha in `wanted`."""
    scaling = type.scaling
    if scaling is None:
        return
    config["rank_pattern"] = config["alpha_pattern"] = {}
    if wanted:
        ranks = smallest_patterns({path: rank for path, (rank, _) in wanted.items()})
        alphas = smallest_patterns({path: _plain(alpha) for path, (_, alpha) in wanted.items()})
        config[scaling.rank], config["rank_pattern"] = ranks
        config[scaling.alpha], config["alpha_pattern"] = alphas
    # Without modules any rank is true, but PEFT needs one: 8 is its default.
    config.setdefault(scaling.rank, 8)
    config.setdefault(scaling.alpha, config[scaling.rank])


def _numbers(config: PeftConfig, path: str) -> tuple[int, float]:
    """The rank and the alpha that a config gives to a module."""
    return config.expected_rank(path), config.scaling(path).alpha


def _plain(number: float) -> float:
    return int(number) if float(number).is_integer() else number


def _set_replaced(config: dict[str, Any], adapter: Adapter, type: PeftType) -> None:
    """Make the config announce the trained rows and the tensors that are stored whole."""
    for target in adapter.rows:
        where = f"{adapter.where}: {shorten(target)}"
        with about(target):
            _refuse_without(type, "trainable_token_indices", where, "rows of trained tokens")
    if adapter.rows:
        config["trainable_token_indices"] = {
            target.removesuffix(".weight"): list(rows.indices)
            for target, rows in adapter.rows.items()
        }
    listed = config.get("modules_to_save")
    saved = list(listed) if isinstance(listed, list) else []
    by_task = SavedNames(head_modules(config.get("task_type")))
    trained = [target for target, replacement in adapter.replaced.items() if replacement.is_trained]
    names = SavedNames(saved)
    # Weights before biases: a module that is listed for its weight is saved with its bias.
    for target in sorted(trained, key=lambda target: target.endswith("bias")):
        if names.hold(target):
            continue
        head = next(by_task.holding(target), None)
        if head is not None:
            saved.append(head)
            names.add(head)
        elif target.endswith("bias"):
            with about(target):
                where = f"{adapter.where}: {shorten(target)}"
                _refuse_without(type, "bias", where, "a trained bias")
            config["bias"] = "all" if config["bias"] == "none" else config["bias"]
        else:
            saved.append(target.rpartition(".")[0])
            names.add(saved[-1])
    config["modules_to_save"] = saved or None


def _refuse_without(type: PeftType, field: str, where: str, what: str) -> None:
    if field not in type.fields:
        raise UnsupportedError(f"{where}: PEFT has no place for {what} beside a {type.title}")
