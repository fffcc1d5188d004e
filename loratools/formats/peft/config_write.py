"""The config of a written PEFT adapter: the one that was read, made to say what is stored."""

from collections.abc import Mapping, Sequence
from typing import Any

from loratools.adapter import Adapter
from loratools.deltas.diff import Diff
from loratools.deltas.dora import DoRA
from loratools.deltas.kasa import KaSA
from loratools.deltas.lora import Rule
from loratools.errors import UnsupportedError, shorten
from loratools.formats.peft.config import PeftConfig, head_modules, parse_config
from loratools.formats.peft.config_initial import initial_config
from loratools.formats.peft.modules import Module
from loratools.formats.peft.smallest import smallest_patterns
from loratools.names.saved import SavedNames

_DEFAULTS: Mapping[str, Any] = {
    "peft_type": "LORA",
    "task_type": None,
    "base_model_name_or_path": None,
    "inference_mode": True,
    "bias": "none",
    "fan_in_fan_out": False,
    "lora_dropout": 0.0,
    "modules_to_save": None,
}
#: PEFT's own word for an adapter that only saves modules.
_NO_TARGETS = "dummy-target-modules"
#: How factors were stored that are written in full here.
_EXPANDED = ("enable_lora", "use_bdlora")


def config_of(adapter: Adapter, modules: Sequence[Module], rule: Rule) -> dict[str, Any]:
    """The config as it was read where that still says what is stored; else with what does."""
    config = {**_DEFAULTS, **initial_config(adapter)}
    config |= dict.fromkeys(filter(config.get, _EXPANDED))
    config["use_rslora"] = rule == "sqrt_rank"
    config["use_dora"] = _all_or_none(adapter, modules, DoRA)
    if _all_or_none(adapter, modules, KaSA):
        config["kasa_config"] = config.get("kasa_config") or {}
    elif "kasa_config" in config:
        config["kasa_config"] = None
    if adapter.provenance.base is not None:
        config["base_model_name_or_path"] = adapter.provenance.base
    config["lora_bias"] = any(isinstance(u.delta, Diff) for u in adapter.updates.values())
    _set_ranks(config, adapter.where, modules)
    _set_replaced(config, adapter)
    _check(parse_config(config, adapter.where), modules)
    return config


def _check(config: PeftConfig, modules: Sequence[Module]) -> None:
    config = config.about([module.path for module in modules])
    for module in modules:
        if name := config.saves_whole(module.path):
            raise UnsupportedError(
                f"{config.where}: {shorten(module.path)}: PEFT saves {name!r} whole, and has no "
                f"place for a LoRA on it as well"
            )
        if _said(config, module.path) != (module.lora.rank, module.alpha):
            raise UnsupportedError(
                f"{config.where}: {shorten(module.path)}: PEFT has no pattern for this module alone"
            )


def _all_or_none(adapter: Adapter, modules: Sequence[Module], kind: type) -> bool:
    found = {isinstance(module.update.delta, kind) for module in modules}
    if len(found) > 1:
        raise UnsupportedError(
            f"{adapter.where}: PEFT has one kind of update in an adapter, and this has "
            f"{', '.join(adapter.kinds)}"
        )
    return found == {True}


def _set_ranks(config: dict[str, Any], where: str, modules: Sequence[Module]) -> None:
    wanted = {module.path: (module.lora.rank, module.alpha) for module in modules}
    known = parse_config(config, where).about(list(wanted)) if "r" in config else None
    if known is None or any(_said(known, path) != said for path, said in wanted.items()):
        config["rank_pattern"] = config["alpha_pattern"] = {}
        if wanted:
            ranks = smallest_patterns({path: rank for path, (rank, _) in wanted.items()})
            alphas = smallest_patterns({path: _plain(alpha) for path, (_, alpha) in wanted.items()})
            config["r"], config["rank_pattern"] = ranks
            config["lora_alpha"], config["alpha_pattern"] = alphas
        config.setdefault("r", 8)
        config.setdefault("lora_alpha", config["r"])
    if known is None or any(
        known.is_target(path) is False or known.leaves_out(path) for path in wanted
    ):
        config["target_modules"] = list(wanted) or _NO_TARGETS
        for narrowing in ("exclude_modules", "layers_to_transform", "layers_pattern"):
            config[narrowing] = None


def _said(config: PeftConfig, path: str) -> tuple[int, float]:
    return config.expected_rank(path), config.scaling(path).alpha


def _plain(number: float) -> float:
    return int(number) if float(number).is_integer() else number


def _set_replaced(config: dict[str, Any], adapter: Adapter) -> None:
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
    # A module's weight first: it takes the bias along.
    for target in sorted(trained, key=lambda target: target.endswith("bias")):
        if names.hold(target):
            continue
        head = next(by_task.holding(target), None)
        if head is not None:
            saved.append(head)
            names.add(head)
        elif target.endswith("bias"):
            config["bias"] = "all" if config["bias"] == "none" else config["bias"]
        else:
            saved.append(target.rpartition(".")[0])
            names.add(saved[-1])
    config["modules_to_save"] = saved or None
