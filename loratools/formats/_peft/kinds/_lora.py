"""The common part of all kinds that contain a LoRA: PEFT's type LORA, and the two factors."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar, final

from loratools.deltas import Delta
from loratools.deltas.lora import LoRA
from loratools.formats._peft.kinds import Form, KindCodec, StoredModule, WrittenModule
from loratools.formats._peft.kinds._factors import (
    EMBEDDING,
    decoded_factors,
    enabled_parts,
    encoded_factors,
)
from loratools.formats._peft.peft_type import OPTIONAL_FIELDS, SETTINGS, PeftType, ScalingFields
from loratools.io.source import Source
from loratools.parts import Update

_TRAINING = "used in training only"
_REFUSED = {
    "alora_invocation_tokens": "aLoRA acts only after its invocation tokens, not on every token",
    "arrow_config": "Arrow mixes its experts by each token",
    "use_qalora": "QA-LoRA pools the inputs of a quantised layer: it has no update of the weight",
    "layer_replication": (
        "the adapter belongs to a model with repeated layers, which the base does not store"
    ),
    "target_parameters": "fused experts cannot be merged yet",
}

LORA = PeftType(
    name="LORA",
    title="LoRA",
    scaling=ScalingFields(alpha="lora_alpha", sqrt_rank="use_rslora"),
    fields=OPTIONAL_FIELDS,
    settings=(
        "r",
        "lora_alpha",
        "use_rslora",
        "use_dora",
        "lora_bias",
        *SETTINGS,
        "init_lora_weights",
        "enable_lora",
    ),
    flags=("use_rslora", "fan_in_fan_out", "use_qalora"),
    typed={"enable_lora": list, "use_bdlora": dict},
    defaults={"bias": "none", "fan_in_fan_out": False, "lora_dropout": 0.0},
    unpacked=("enable_lora", "use_bdlora"),
    inert={".lora_monteclora_sampler": _TRAINING, ".lora_velora_embed": _TRAINING},
    refused=_REFUSED,
)


class LoRAKind(KindCodec):
    """The base of codecs for kinds that are stored as the factors of a LoRA, alone or with more."""

    peft_type: ClassVar[PeftType] = LORA

    @final
    def rank(self, delta: Delta) -> int:
        """The rank of the LoRA."""
        return lora_in(delta).rank

    @final
    def stored_rank(self, module: StoredModule, update: Update) -> int | None:
        """The rank of the factors.

        None where the config's rank is that of single blocks of the factors, and where the factors
        may be those of a tied embedding, with another rank.
        """
        if enabled_parts(module.config) or _may_be_of_the_embedding(module):
            return None
        return self.rank(update.delta)


class AroundLoRA(LoRAKind):
    """The base of codecs for kinds that are stored as the factors of a LoRA and one more tensor."""

    #: The role of that tensor; each of `forms` is a pair of factors and this tensor.
    role: ClassVar[str]

    @abstractmethod
    def around(self, lora: LoRA, tensor: Source, *, is_embedding: bool) -> Delta:
        """The update that the LoRA and the tensor form."""

    @abstractmethod
    def tensor(self, module: WrittenModule) -> Source:
        """The additional tensor in the shape in which PEFT stores it.

        Raises:
            UnsupportedError: PEFT cannot store the update of this module.
        """

    @final
    def decode(self, module: StoredModule) -> Iterator[tuple[str, Update]]:
        """The update of the weight, from the factors and the additional tensor."""
        lora, is_embedding = decoded_factors(module), EMBEDDING[0] in module.roles
        delta = self.around(lora, module.roles[self.role], is_embedding=is_embedding)
        yield module.weight, module.update(delta, is_embedding=is_embedding)

    @final
    def encode(self, module: WrittenModule) -> Iterator[tuple[str, Source]]:
        """The factors, and the additional tensor."""
        yield from encoded_factors(module, lora_in(module.update.delta))
        yield self.role, self.tensor(module)


def with_role(role: str, *pairs: Form) -> tuple[Form, ...]:
    """The forms made of one of these pairs of factors and one more tensor."""
    return tuple((*pair, role) for pair in pairs)


def lora_in(delta: Delta) -> LoRA:
    """The LoRA in an update; every update of this type has one."""
    lora = delta.low_rank
    assert lora is not None, delta.kind
    return lora


def _may_be_of_the_embedding(module: StoredModule) -> bool:
    """Whether a head may have the factors of a tied embedding.

    They then have the embedding's rank, while the scaling follows from the head's own.
    """
    if not module.config.flag("ensure_weight_tying") or "lora_B" not in module.roles:
        return False
    return any(
        other.get("lora_embedding_A") is not None
        and module.roles["lora_B"].shape == other["lora_embedding_A"].shape[::-1]
        for other in module.modules.values()
    )
