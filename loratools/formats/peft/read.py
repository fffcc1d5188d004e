"""PEFT's LoRA and DoRA: `adapter_config.json` and `adapter_model.safetensors`."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple, final

from loratools.adapter import Adapter, Filed, Note, Provenance, ReplacedRows, Replacement, Update
from loratools.deltas import Delta
from loratools.deltas.diff import Diff
from loratools.deltas.dora import DoRA
from loratools.deltas.kasa import KaSA
from loratools.deltas.lora import LoRA
from loratools.errors import FormatError, ShapeMismatchError, UnsupportedError, listing, shorten
from loratools.formats import Sureness
from loratools.formats.peft.announced import announced_of, announced_parts, other_ranks, silenced
from loratools.formats.peft.config import PeftConfig, parse_config
from loratools.formats.peft.keys import OUT_PROJ_TIMES, PREFIX, Parts, sort_keys
from loratools.formats.peft.notes import disagreements
from loratools.formats.peft.parts import check_roles, embedding, linear
from loratools.formats.peft.tensors import vector
from loratools.io.bundle import Bundle
from loratools.io.source import Source

#: The last PEFT seen to apply the update of a MultiheadAttention's out_proj twice, in training and
#: in merging: all since 0.15, the first that had it. Files without a version are older than 0.18.
_OUT_PROJ_TWICE_UNTIL = (0, 21, 2)
_NESTED = re.compile(r"\.base_layer(\.|$)")
_OWN_KEY = re.compile(rf"^{re.escape(PREFIX)}|\.lora_(embedding_)?[AB](\.|$)")
_SETTINGS = (
    "r", "lora_alpha", "use_rslora", "use_dora", "lora_bias", "bias", "fan_in_fan_out",
    "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "layers_to_transform",
    "modules_to_save", "trainable_token_indices", "init_lora_weights", "enable_lora",
)  # fmt: skip


def claim(bundle: Bundle) -> Sureness:
    """By the config and the keys together: neither is enough to decode an adapter."""
    peft_type = (bundle.config or {}).get("peft_type")
    has_keys = any(map(_OWN_KEY.search, bundle.tensors))
    if peft_type == "LORA" and has_keys:
        return Sureness.CONFIG
    is_named = bundle.config is not None and "peft_type" in bundle.config
    return Sureness.POSSIBLE if is_named or has_keys else Sureness.NO


def decode(bundle: Bundle, options: Mapping[str, str]) -> Adapter:
    """The canonical form of a PEFT adapter.

    Raises:
        FormatError: the config is missing or malformed, or a pair is not whole.
        ShapeMismatchError: the factors of a target do not fit each other.
        UnsupportedError: the adapter is of a type other than LORA, or has no LoRA tensor at all.
    """
    if bundle.config is None:
        raise FormatError(
            f"{bundle.where}: no adapter_config.json beside it, and the scaling is only there; "
            f"pass it with --config"
        )
    config = parse_config(bundle.config, bundle.where)
    parts = sort_keys(bundle)
    config = config.about([_path(module) for module in parts.modules])
    decoder = _Decoder(bundle.where, config, options, parts)
    updates = decoder.all_updates()
    replaced = parts.replaced(config)
    if not (updates or parts.tokens or any(r.is_trained for r in replaced.values())):
        found = listing(bundle.tensors, 3) or "no tensors at all"
        raise UnsupportedError(f"{bundle.where}: holds no adapter tensor ({found})")
    parts.refuse_strays(config)
    version = config.text("peft_version")
    return Adapter(
        where=bundle.where,
        updates=updates,
        replaced=replaced,
        rows={f"{m}.weight": decoder.rows(m, source) for m, source in parts.tokens.items()},
        copies=parts.copies(),
        inert=parts.inert,
        provenance=Provenance(
            base=config.text("base_model_name_or_path"),
            revision=config.text("revision"),
            task=config.text("task_type"),
            trainer=f"peft {version}" if version else None,
        ),
        notes=(
            *config.notes(),
            *parts.notes,
            *decoder.notes,
            *other_ranks(decoder.other_ranks),
            *silenced(updates),
            *announced_parts(config, parts.modules, parts.tokens),
            *disagreements(config, decoder.modules, _kept_whole(parts, replaced)),
        ),
        companions=bundle.companions,
        nbytes=bundle.nbytes,
        announced=announced_of(config, decoder.modules, replaced, parts.tokens),
        filed=Filed(
            dialect="peft",
            config=config.fields,
            metadata=bundle.metadata,
            settings={n: config.fields[n] for n in _SETTINGS if config.fields.get(n)},
        ),
    )


def _kept_whole(parts: Parts, replaced: Mapping[str, Replacement]) -> tuple[str, ...]:
    """Whole tensors, without those of the base that PEFT saves from its wrappers."""
    return tuple(
        name for name, r in replaced.items() if r.is_trained or name not in parts.base_layers
    )


@final
class _Target(NamedTuple):
    """Where a module's update goes: `path` is what patterns are matched with."""

    path: str
    parameter: str
    bias: str
    times: int = 1


@final
class _Decoder:
    """Makes updates of the parts of each module, and notes what is odd about them."""

    def __init__(
        self, where: str, config: PeftConfig, options: Mapping[str, str], parts: Parts
    ) -> None:
        self.where = where
        self.config = config
        self.options = options
        self.parts = parts
        self.attention_modules = parts.attention_modules()
        self.fan_in_fan_out = config.flag("fan_in_fan_out")
        self.has_unusual_factors = bool(config.enabled()) or config.flag("use_bdlora")
        self.modules: list[str] = []
        self.notes: list[Note] = []
        self.other_ranks: dict[tuple[int, int], list[str]] = {}

    def all_updates(self) -> dict[str, Update]:
        """The updates of every module, by target."""
        updates: dict[str, Update] = {}
        for module, roles in self.parts.modules.items():
            found = self._usual_update(module, roles) or self._updates(module, roles)
            for name, update in found:
                if name in updates:
                    raise FormatError(f"{self.where}: {shorten(name)} has two updates")
                updates[name] = update
        return updates

    def rows(self, module: str, source: Source) -> ReplacedRows:
        """The replacement rows of an embedding; only the config knows which rows they are."""
        indices = self.config.fields.get("trainable_token_indices")
        if isinstance(indices, dict):
            fitting = [v for k, v in indices.items() if module == k or module.endswith(f".{k}")]
            indices = fitting[0] if len(fitting) == 1 else None
        if not isinstance(indices, list) or not all(type(i) is int and i >= 0 for i in indices):
            raise FormatError(
                f"{self.where}: {module} has trained token rows, and trainable_token_indices "
                f"does not say which rows they are"
            )
        if len(source.shape) != 2 or len(indices) != source.shape[0]:
            raise FormatError(
                f"{self.where}: {module} has trained token rows {list(source.shape)} for "
                f"{len(indices)} indices"
            )
        if len(set(indices)) < len(indices):
            raise FormatError(f"{self.where}: {module}: trainable_token_indices has a row twice")
        return ReplacedRows(tuple(indices), source)

    def _usual_update(
        self, module: str, roles: Mapping[str, Source]
    ) -> tuple[tuple[str, Update]] | None:
        """What `_updates` yields for a plain pair on a matrix, for a third of its cost.

        None for anything else: what is refused or noted is left to `_updates`.
        """
        down, up = roles.get("lora_A"), roles.get("lora_B")
        if down is None or up is None or len(roles) != 2 or self.has_unusual_factors:
            return None
        if ".base_layer" in module or module in self.attention_modules:
            return None
        scaling, below, above = self.config.scaling(module), down.shape, up.shape
        if not (len(below) == len(above) == 2 and below[0] == above[1] == scaling.rank):
            return None
        self.modules.append(module)
        lora = LoRA(up, down, scaling, (above[0], below[1]))
        return ((f"{module}.weight", Update(lora, self.fan_in_fan_out)),)

    def _updates(self, module: str, roles: Mapping[str, Source]) -> Iterator[tuple[str, Update]]:
        """The update of a module's weight, and that of its bias if there is one."""
        check_roles(self.where, module, roles)
        target = self._target(module)
        self.modules.append(target.path)
        scaling = self.config.scaling(target.path)
        is_embedding = "lora_embedding_A" in roles
        make = embedding if is_embedding else linear
        scaled = scaling if target.times == 1 else replace(scaling, times=target.times)
        lora = make(self.where, self.config, target.path, roles, scaled)
        if not self._is_tied(roles):
            self._compare_rank(target.path, lora)
        delta: Delta = lora
        if magnitude := roles.get("lora_magnitude_vector"):
            delta = DoRA(lora, vector(magnitude), "column" if is_embedding else "row")
        elif diagonal := roles.get("lora_diag"):
            delta = KaSA(lora, diagonal)
        is_matrix = len(lora.shape) == 2 and not is_embedding
        orientation = self.fan_in_fan_out if is_matrix else None
        yield target.parameter, Update(delta, orientation, is_embedding=is_embedding)
        if bias := roles.get("lora_B.bias"):
            if target.parameter.endswith(".in_proj_weight"):
                self.parts.inert[bias.keys[0]] = "PEFT stores it and never applies it"
            elif bias.shape != lora.shape[:1]:
                raise ShapeMismatchError(
                    f"{self.where}: {shorten(target.path)}: lora_B.bias has the shape "
                    f"{list(bias.shape)}; {lora.shape[0]} numbers are expected"
                )
            else:
                yield target.bias, Update(Diff(bias, scaling))

    def _target(self, module: str) -> _Target:
        if module in self.attention_modules:
            return _Target(module, f"{module}.in_proj_weight", f"{module}.in_proj_bias")
        path = _path(module)
        if path != module:
            inner = f"{path}.out_proj"
            times = self._out_proj_times(inner)
            return _Target(path, f"{inner}.weight", f"{inner}.bias", times)
        if _NESTED.search(module):
            raise UnsupportedError(
                f"{self.where}: {shorten(module)}: nested wrappers (target_parameters, "
                f"fused experts) cannot be merged yet"
            )
        return _Target(module, f"{module}.weight", f"{module}.bias")

    def _out_proj_times(self, module: str) -> int:
        asked = self.options["out_proj"]
        if asked != "auto":
            times = {"once": 1, "twice": OUT_PROJ_TIMES}[asked]
            self.notes.append(Note("info", f"{module}: counts {asked}, as asked"))
            return times
        version = self.config.text("peft_version")
        if self.config.version <= _OUT_PROJ_TWICE_UNTIL:
            self.notes.append(
                Note(
                    "info",
                    f"{module}: the update counts twice, as PEFT {version or 'before 0.18'} "
                    f"applied it in training and in merging (--out-proj once to change that)",
                )
            )
            return OUT_PROJ_TIMES
        self.notes.append(
            Note(
                "refusal",
                f"{module}: PEFT up to 0.21.2 applies this update twice; whether {version} does "
                f"is not known here; say it with --out-proj once or twice",
            )
        )
        return 1

    def _is_tied(self, roles: Mapping[str, Source]) -> bool:
        """Whether a head may have the factors of the embedding, at the scaling of its own rank."""
        if not self.config.flag("ensure_weight_tying") or "lora_B" not in roles:
            return False
        return any(
            other.get("lora_embedding_A") is not None
            and roles["lora_B"].shape == other["lora_embedding_A"].shape[::-1]
            for other in self.parts.modules.values()
        )

    def _compare_rank(self, path: str, lora: LoRA) -> None:
        expected = lora.scaling.rank
        if lora.rank != expected and not self.config.enabled():
            self.other_ranks.setdefault((expected, lora.rank), []).append(path)


def _path(module: str) -> str:
    """What patterns are matched with: of a MultiheadAttention's out_proj, the attention."""
    return module.removesuffix(".base_layer.out_proj")
