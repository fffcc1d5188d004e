"""What a base becomes when an adapter brings the head of a classifier along.

What a checkpoint lacks, by its names, transformers makes up at random, without an error. So the
config says which class the result is and how many labels it has, and tensors get the names that
they have in that class.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

from loratools.adapter import Adapter
from loratools.errors import listing
from loratools.io.checkpoint import Checkpoint
from loratools.names.heads import Head, find_heads, output_layer
from loratools.operations.merge import PlannedTensor

#: Modules beside the base model, by the first part of their names: these have no prefix.
_OUTER = frozenset(
    {
        "classification_head", "classifier", "cls", "embed_out", "final_logits_bias",
        "generator_lm_head", "generator_predictions", "head", "lm_head", "lm_predictions",
        "pre_classifier", "predictions", "qa_outputs", "score", "vocab_layer_norm",
        "vocab_projector", "vocab_transform",
    }
)  # fmt: skip


@final
@dataclass(frozen=True)
class NewHead:
    """The head that the output has from an adapter, as `config.json` describes it.

    Attributes:
        architecture: the class of the output; None where it stays unknown.
        labels: the number of labels.
        label_names: their names in order; None where the config need not name them.
        problem_type: as the config beside the adapter has it.
        pad_token: the number of the padding token, where it is known only now.
        needs_pad_token: whether the class needs it, for more than one text at a time.
    """

    architecture: str | None
    labels: int
    label_names: tuple[str, ...] | None
    problem_type: str | None = None
    pad_token: int | None = None
    needs_pad_token: bool = False


@final
@dataclass(frozen=True)
class HeadPlan:
    """The new head if there is one, the output's tensors under their final names, and notes."""

    head: NewHead | None
    tensors: Mapping[str, PlannedTensor]
    notes: tuple[str, ...]


def plan_head(
    base: Checkpoint, adapters: Sequence[Adapter], tensors: Mapping[str, PlannedTensor]
) -> HeadPlan:
    """What a head among the planned tensors means for the others and for the config."""
    for adapter in adapters:
        stored = _trained_by(adapter, tensors)
        heads = find_heads(stored, adapter.provenance.task, base.config or {})
        output = heads[0].output if heads else output_layer(stored)
        if output is None:
            continue
        labels = stored[output].shape[0]
        if base.config is None:
            note = (
                f"{output}: a head of {labels} labels, and the base has no config.json; that of "
                f"the output has to say so (architectures, id2label)"
            )
            return HeadPlan(None, tensors, (note,))
        return _planned(base.config, adapter, _chosen(heads, base.config), tensors, labels)
    return HeadPlan(None, tensors, ())


def config_with_head(config: Mapping[str, Any], head: NewHead) -> dict[str, Any]:
    """A `config.json` that describes a model with this head."""
    fields = dict(config)
    if head.architecture is not None:
        fields["architectures"] = [head.architecture]
    if head.label_names is not None:
        fields["id2label"] = {str(number): name for number, name in enumerate(head.label_names)}
        fields["label2id"] = {name: number for number, name in enumerate(head.label_names)}
    # transformers refuses a number that contradicts the names.
    for key in ("num_labels", "_num_labels"):
        if key in fields:
            fields[key] = head.labels
    is_other = _architecture(config) != head.architecture or _labels(config) != head.labels
    if "problem_type" in fields and is_other:
        fields["problem_type"] = None
    if head.problem_type is not None:
        fields["problem_type"] = head.problem_type
    if head.pad_token is not None:
        fields["pad_token_id"] = head.pad_token
    return fields


def _trained_by(adapter: Adapter, tensors: Mapping[str, PlannedTensor]) -> dict[str, PlannedTensor]:
    """The output's tensors that an adapter replaces by trained ones."""
    trained = {id(r.source) for r in adapter.replaced.values() if r.is_trained}
    return {name: tensor for name, tensor in tensors.items() if id(tensor.origin) in trained}


def _chosen(heads: Sequence[Head], config: Mapping[str, Any]) -> Head | None:
    """The one head that it is; of several, the one that the base has already."""
    if len(heads) == 1:
        return heads[0]
    return next((head for head in heads if head.architecture == _architecture(config)), None)


def _planned(
    config: Mapping[str, Any],
    adapter: Adapter,
    head: Head | None,
    tensors: Mapping[str, PlannedTensor],
    labels: int,
) -> HeadPlan:
    beside = adapter.model_config or {}
    names, label_note = _label_names(config, beside, labels, head)
    problem_type = beside.get("problem_type")
    notes = [] if label_note is None else [label_note]
    if head is None:
        notes.insert(
            0,
            f"a head of {labels} labels, whose task neither task_type nor the names of its "
            f"tensors tell: architectures in config.json stays as it is",
        )
    else:
        renamed, renaming = _renamed(tensors, head)
        notes = [*_class_notes(head, config, labels), *renaming, *notes]
        notes += _leftovers(head, renamed)
        tensors = renamed
    new = NewHead(
        architecture=head.architecture if head else None,
        labels=labels,
        label_names=names,
        problem_type=problem_type if isinstance(problem_type, str) else None,
        needs_pad_token=bool(head and head.reads_last_token and config.get("pad_token_id") is None),
    )
    return HeadPlan(new, tensors, tuple(notes))


def _class_notes(head: Head, config: Mapping[str, Any], labels: int) -> Iterator[str]:
    if _architecture(config) == head.architecture and _labels(config) == labels:
        return
    guess = "" if head.is_known else ", by the name of the base's class and by the task"
    yield f"config.json: the output is a {head.architecture} with {labels} labels{guess}"


def _label_names(
    config: Mapping[str, Any], beside: Mapping[str, Any], labels: int, head: Head | None
) -> tuple[tuple[str, ...] | None, str | None]:
    """The names of the labels for the config, and a note where they are made up."""
    for known in (beside, config):
        names = _names_in(known)
        if names is not None and len(names) == labels:
            return names, None
    is_answer = head is not None and head.task == "QUESTION_ANS"
    if is_answer and _labels(config) == labels:
        return None, None
    made_up = tuple(f"LABEL_{number}" for number in range(labels))
    if is_answer:
        return made_up, None
    return made_up, (
        f"config.json: id2label has {listing(made_up, 2)}: the adapter does not say what its "
        f"labels are called"
    )


def _names_in(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The names of the labels in a config, in their order; None where it has none, or not all."""
    names = config.get("id2label")
    if not isinstance(names, dict):
        return None
    found = [names.get(str(number)) for number in range(len(names))]
    if not all(isinstance(name, str) for name in found) or len(set(found)) < len(found):
        return None
    return tuple(str(name) for name in found)


def _labels(config: Mapping[str, Any]) -> int:
    """How many labels transformers takes a model to have: two where nothing says it."""
    names = config.get("id2label")
    if isinstance(names, dict):
        return len(names)
    number = config.get("num_labels", config.get("_num_labels"))
    return number if isinstance(number, int) else 2


def _architecture(config: Mapping[str, Any]) -> object:
    architectures = config.get("architectures")
    return architectures[0] if isinstance(architectures, list) and architectures else None


def _renamed(
    tensors: Mapping[str, PlannedTensor], head: Head
) -> tuple[Mapping[str, PlannedTensor], list[str]]:
    """The tensors as the head's class calls them, whose base model has a prefix of its own there.

    Which prefix they have now is seen from the adapter: its targets have the names of that class.
    """
    change = _prefixes(tensors, head)
    if change is None:
        return tensors, []
    new, old = change
    names = {
        name: new + name.removeprefix(old)
        for name, tensor in tensors.items()
        if tensor.base is not None
        and name.startswith(old)
        and not name.startswith(new)
        and not (old == "" and name.partition(".")[0] in _OUTER)
    }
    if not names or set(names.values()) & set(tensors):
        return tensors, []
    renamed = {}
    for name, tensor in tensors.items():
        final_name = names.get(name, name)
        renamed[final_name] = replace(tensor, name=final_name, is_renamed=final_name != name)
    what = f"{old!r} in the names becomes {new!r}" if old else f"names begin with {new!r}"
    return renamed, [f"{what} from now on, as in {head.architecture}"]


def _prefixes(tensors: Mapping[str, PlannedTensor], head: Head) -> tuple[str, str] | None:
    """The base model's prefix in the class and in the base; None where they agree, or are unknown.

    The longest end that a target and its tensor have in common separates the two.
    """
    found = set()
    for name, tensor in tensors.items():
        for change in tensor.changes:
            wanted, present = _apart(change.target, name)
            if not head.prefix or change.target.startswith(head.prefix):
                found.add((wanted, present))
    if len(found) != 1:
        return None
    wanted, present = found.pop()
    return (wanted, present) if wanted and wanted != present else None


def _apart(target: str, name: str) -> tuple[str, str]:
    """What stands before the longest end in common, by whole parts of the names."""
    one, other = target.split("."), name.split(".")
    common = 0
    while common < min(len(one), len(other)) and one[-1 - common] == other[-1 - common]:
        common += 1
    heads = (one[: len(one) - common], other[: len(other) - common])
    before = [".".join(parts) + "." if parts else "" for parts in heads]
    return before[0], before[1]


def _leftovers(head: Head, tensors: Mapping[str, PlannedTensor]) -> Iterator[str]:
    """What the class has and the output lacks, and the other way round."""
    if not head.is_known:
        return
    bare = {name.removeprefix(head.prefix) for name in tensors}
    lacking = [name for name in head.parameters if name.removeprefix(head.prefix) not in bare]
    if lacking:
        yield (
            f"{listing(lacking)}: in no adapter and not in the base, so that transformers makes "
            f"it up at random; the outputs of {head.architecture} depend on it"
        )
    others = [
        name
        for name, tensor in tensors.items()
        if tensor.base is not None
        and name.partition(".")[0] in _OUTER
        and name not in head.parameters
    ]
    if others:
        yield f"{listing(others)}: kept from the base; {head.architecture} passes over it"
