"""Change a planned merge to which an adapter adds the head of a classifier.

transformers initialises tensors whose names a checkpoint lacks at random, without an error. So the
config must state the class of the result and its number of labels, and tensors must get the names
that they have in that class.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from loratools.adapter import Adapter
from loratools.errors import counted, listing
from loratools.io.checkpoint import Checkpoint
from loratools.merging.plan import MergePlan, NewHead, PlannedTensor
from loratools.names.heads import Head, find_heads, output_layer

#: The first part of the names of modules outside the base model, which never have its prefix.
_OUTER = frozenset(
    {
        "classification_head", "classifier", "cls", "embed_out", "final_logits_bias",
        "generator_lm_head", "generator_predictions", "head", "lm_head", "lm_predictions",
        "pre_classifier", "predictions", "qa_outputs", "score", "vocab_layer_norm",
        "vocab_projector", "vocab_transform",
    }
)  # fmt: skip


def with_head(plan: MergePlan) -> MergePlan:
    """The plan with the tensors' names and the config that a head among its tensors requires."""
    base, tensors = plan.base, plan.tensors
    brought = list(_brought(base, plan.adapters, tensors))
    if not brought:
        return plan
    adapter, heads, output = brought[0]
    others = tuple(
        f"{other.where}: brings a head too, {name}; config.json describes {output}"
        for other, _, name in brought[1:]
        if name != output
    )
    labels = tensors[output].shape[0]
    if base.config is None:
        note = (
            f"{output}: a head of {counted(labels, 'label')}; the base has no config.json, and the "
            f"one that you give the output has to say so (architectures, id2label)"
        )
        return replace(plan, notes=(*plan.notes, note, *others))
    head = _chosen(heads, base.config)
    new, notes = _described(base.config, adapter.model_config or {}, head, labels)
    if head is None:
        return replace(plan, head=new, notes=(*plan.notes, *notes, *others))
    tensors, renaming = _renamed(tensors, head, base.config)
    notes += [*renaming, *_passed_over(head, tensors), *others]
    return replace(
        plan,
        tensors=tensors,
        head=new,
        notes=(*plan.notes, *notes),
        warnings=(*plan.warnings, *_made_up(head, tensors)),
    )


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


def _brought(
    base: Checkpoint, adapters: Sequence[Adapter], tensors: Mapping[str, PlannedTensor]
) -> Iterator[tuple[Adapter, tuple[Head, ...], str]]:
    """The adapters that bring a head, the heads that it may be, and its output layer's name."""
    for adapter in adapters:
        stored = _trained_by(adapter, tensors)
        heads = find_heads(stored, adapter.provenance.task, base.config or {})
        output = heads[0].output if heads else output_layer(stored)
        if output is not None:
            yield adapter, heads, output


def _trained_by(adapter: Adapter, tensors: Mapping[str, PlannedTensor]) -> dict[str, PlannedTensor]:
    """The output's tensors that an adapter replaces by trained ones."""
    trained = {id(r.source) for r in adapter.replaced.values() if r.is_trained}
    return {name: tensor for name, tensor in tensors.items() if id(tensor.origin) in trained}


def _chosen(heads: Sequence[Head], config: Mapping[str, Any]) -> Head | None:
    """The only possible head; of several, the one that the base's class has; else None."""
    if len(heads) == 1:
        return heads[0]
    return next((head for head in heads if head.architecture == _architecture(config)), None)


def _described(
    config: Mapping[str, Any], beside: Mapping[str, Any], head: Head | None, labels: int
) -> tuple[NewHead, list[str]]:
    """The head as the config must describe it, and notes; `beside` is the adapter's own config."""
    notes = []
    architecture = head.architecture if head else None
    if head is None:
        notes.append(
            f"config.json: a head of {counted(labels, 'label')}, whose task neither task_type nor "
            f"its tensors tell; architectures stays as it is"
        )
    elif (_architecture(config), _labels(config)) != (architecture, labels):
        guess = "" if head.is_known else ", by the name of the base's class and by the task"
        notes.append(
            f"config.json: the output is a {architecture} with {counted(labels, 'label')}{guess}"
        )
    is_answer = head is not None and head.task == "QUESTION_ANS"
    names = next((n for n in map(_names_in, (beside, config)) if n and len(n) == labels), None)
    # Without names transformers makes up the same: for two labels, or the number stated.
    is_said = _labels(config) == labels and (is_answer or _architecture(config) == architecture)
    if names is None and not is_said:
        names = tuple(f"LABEL_{number}" for number in range(labels))
        notes.append(
            f"config.json: labels are called {listing(names, 2)}: nothing says their names"
        )
    problem_type = beside.get("problem_type")
    new = NewHead(
        architecture=architecture,
        labels=labels,
        label_names=names,
        problem_type=problem_type if isinstance(problem_type, str) else None,
        needs_pad_token=bool(head and head.reads_last_token and config.get("pad_token_id") is None),
    )
    return new, notes


def _names_in(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The names of the labels in a config, in order; None if one is missing, or given twice."""
    names = config.get("id2label")
    if not isinstance(names, dict):
        return None
    found = [names.get(str(number)) for number in range(len(names))]
    if not all(isinstance(name, str) for name in found) or len(set(found)) < len(found):
        return None
    return tuple(str(name) for name in found)


def _labels(config: Mapping[str, Any]) -> int:
    """The number of labels that transformers takes a model to have: two if the config has none."""
    names = config.get("id2label")
    if isinstance(names, dict):
        return len(names)
    number = config.get("num_labels", config.get("_num_labels"))
    return number if isinstance(number, int) else 2


def _architecture(config: Mapping[str, Any]) -> object:
    architectures = config.get("architectures")
    return architectures[0] if isinstance(architectures, list) and architectures else None


def _renamed(
    tensors: Mapping[str, PlannedTensor], head: Head, config: Mapping[str, Any]
) -> tuple[Mapping[str, PlannedTensor], list[str]]:
    """The tensors by the names that they have in the class of the head; a note if they change."""
    prefixes = _prefixes(tensors, head, config)
    if prefixes is None:
        return tensors, []
    old, new = prefixes
    names = {
        name: new + name.removeprefix(old)
        for name, tensor in tensors.items()
        if tensor.base is not None
        and name.startswith(old)
        and not name.startswith(new)
        and (old or name.partition(".")[0] not in _OUTER)
    }
    if set(names.values()) & set(tensors):
        return tensors, []  # two tensors would have one name
    renamed = {}
    for name, tensor in tensors.items():
        final_name = names.get(name, name)
        renamed[final_name] = replace(tensor, name=final_name, is_renamed=final_name != name)
    what = f"{old!r} in names becomes {new!r}" if old else f"names begin with {new!r}"
    return renamed, [f"{what} from now on, as in {head.architecture}"]


def _prefixes(
    tensors: Mapping[str, PlannedTensor], head: Head, config: Mapping[str, Any]
) -> tuple[str, str] | None:
    """The base model's prefix in the base and in the class; None where they agree or are unknown.

    An adapter's targets have the names of the class it was trained in. The two prefixes are what
    precedes the longest common suffix of a target and its tensor.
    """
    pairs = [(c.target, name) for name, tensor in tensors.items() for c in tensor.changes]
    inner = [pair for pair in pairs if pair[0].partition(".")[0] not in _OUTER]
    found = {_before_common_suffix(target, name) for target, name in inner}
    if found <= {("", "")} and head.is_known and str(_architecture(config)).endswith("Model"):
        is_bare = not any(name.startswith(head.prefix) for name in tensors)
        return ("", head.prefix) if is_bare else None
    if len(found) != 1:
        return None
    new, old = found.pop()
    return (old, new) if new and new != old and head.prefix in ("", new) else None


def _before_common_suffix(target: str, name: str) -> tuple[str, str]:
    """The beginnings of both names before their longest common suffix of whole parts."""
    one, other = target.split("."), name.split(".")
    while one and other and one[-1] == other[-1]:
        one.pop()
        other.pop()
    return "".join(f"{part}." for part in one), "".join(f"{part}." for part in other)


def _made_up(head: Head, tensors: Mapping[str, PlannedTensor]) -> Iterator[str]:
    """A warning about parameters that the head's class has and the output lacks."""
    if not head.is_known:
        return
    inner = {name.removeprefix(head.prefix) for name in tensors}
    lacking = [name for name in head.parameters if name.removeprefix(head.prefix) not in inner]
    if lacking:
        yield (
            f"{listing(lacking)}: neither in the base nor in an adapter; {head.architecture} has "
            f"it, and transformers makes it up at random, so that outputs are random too"
        )


def _passed_over(head: Head, tensors: Mapping[str, PlannedTensor]) -> Iterator[str]:
    """A note on tensors that the base has and the head's class has not: those of another head."""
    others = [
        name
        for name, tensor in tensors.items()
        if tensor.base is not None
        and name.partition(".")[0] in _OUTER
        and name not in head.parameters
    ]
    if others and head.is_known:
        yield f"{listing(others)}: kept from the base; {head.architecture} passes over it"
