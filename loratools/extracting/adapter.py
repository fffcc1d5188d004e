"""Builds the adapter of an extraction from factors at their ranks and from whole tensors."""

from collections.abc import Mapping
from typing import Protocol

from loratools.adapter import Adapter
from loratools.deltas.lora import LoRA, Scaling
from loratools.extracting.plan import ExtractPlan, Target
from loratools.io.companions import Companion
from loratools.io.source import Source, transposed
from loratools.parts import Provenance, Update

#: PEFT's task types, by suffixes of the names of architectures.
_TASKS = (
    ("ForCausalLM", "CAUSAL_LM"),
    ("LMHeadModel", "CAUSAL_LM"),
    ("ForQuestionAnswering", "QUESTION_ANS"),
    ("ForSequenceClassification", "SEQ_CLS"),
    ("ForTokenClassification", "TOKEN_CLS"),
    ("ForConditionalGeneration", "SEQ_2_SEQ_LM"),
)
#: The tasks for which PEFT expects a new head in the adapter, with the names of the head's modules.
_HEADS = {
    "SEQ_CLS": {"classifier", "score"},
    "TOKEN_CLS": {"classifier", "score"},
    "QUESTION_ANS": {"qa_outputs"},
}


class Factors(Protocol):
    """The leading factors of a difference."""

    def up_rows(self, rank: int) -> Source:
        """The transposed `up` of the best approximation of this rank."""
        ...

    def down(self, rank: int) -> Source:
        """The `down` of the best approximation of this rank."""
        ...


def adapter_of(
    plan: ExtractPlan,
    factors: Mapping[str, tuple[Factors, int]],
    *,
    where: str,
    base_name: str,
    companions: tuple[Companion, ...],
) -> Adapter:
    """Build the adapter of a plan; `factors` has the factors and the rank of each target.

    Targets with rank 0 are left out.
    """
    updates = {
        target: _update(plan.factored[target], *found)
        for target, found in factors.items()
        if found[1]
    }
    return Adapter(
        where=where,
        updates=updates,
        replaced=plan.whole,
        rows={},
        copies=(),
        inert={},
        provenance=Provenance(base=base_name, task=_task(plan)),
        notes=(),
        companions=companions,
        nbytes=0,
    )


def _update(target: Target, factors: Factors, rank: int) -> Update:
    """The update of one target, with a scaling of 1: its alpha is the rank."""
    lora = LoRA(
        up=transposed(factors.up_rows(rank)),
        down=factors.down(rank),
        scaling=Scaling(float(rank), rank, "rank", "config"),
        shape=target.pair.after.shape,
    )
    if target.is_conv1d:
        lora = lora.transposed()
    is_linear = len(lora.shape) == 2 and not target.is_embedding
    return Update(lora, target.is_conv1d if is_linear else None, target.is_embedding)


def _task(plan: ExtractPlan) -> str | None:
    """PEFT's task type; None if it is unknown, or would make PEFT look for a missing head."""
    config = plan.pairing.tuned.config or plan.pairing.config or {}
    architectures = config.get("architectures")
    name = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    task = next((task for end, task in _TASKS if name.endswith(end)), None)
    if task == "SEQ_2_SEQ_LM" and not config.get("is_encoder_decoder"):
        return None
    if task in _HEADS:
        saved = {target.rpartition(".")[0].rpartition(".")[2] for target in plan.whole}
        return task if saved & _HEADS[task] else None
    return task
