"""Notes on modules and whole tensors where a PEFT config and the stored tensors disagree."""

from collections.abc import Iterator, Sequence

from loratools.errors import listing
from loratools.formats._peft.announced import has_other_head
from loratools.formats._peft.config import PeftConfig, head_modules
from loratools.formats._peft.keys import HEADS
from loratools.names.saved import SavedNames
from loratools.parts import Note, Severity
from loratools.typed import without_lost

_HEADS = {"classifier", "score"}
#: The first PEFT since 0.6 that saves the biases of `lora_only`.
_BIASES_SINCE = (0, 21)
#: The names of heads in PEFT, and in BART and T5.
_ALL_HEADS = (*HEADS, "classification_head")


def disagreements(
    config: PeftConfig, modules: Sequence[str], replaced: Sequence[str]
) -> Iterator[Note]:
    """Notes on modules that are announced and not stored, or stored and not announced.

    `modules` are the modules with updates. `replaced` are the targets of whole tensors, without the
    base's own that PEFT saves from its wrappers.
    """
    untargeted = config.untargeted(modules)
    if untargeted:
        yield Note("problem", f"not in target_modules, so PEFT skips it: {listing(untargeted)}")
    others = dict.fromkeys(modules).keys() - untargeted if config.may_leave_out else ()
    left_out = [m for m in modules if m in others and config.leaves_out(m)]
    if left_out:
        fields = "exclude_modules, layers_to_transform and layers_pattern"
        yield Note("problem", f"left out by {fields}, so PEFT skips it: {listing(left_out)}")
    saved = [f".{key.rpartition('.')[0]}" for key in replaced]
    for name in config.unused_targets():
        if any(module.endswith(f".{name}") for module in saved):
            # PEFT saves a module whole, without factors, if it is also in `modules_to_save`.
            continue
        severity: Severity = "info" if config.is_narrowed else "problem"
        yield Note(severity, f"target_modules lists {name!r}, which has no tensors")
    yield from _overlapping_patterns(config, modules)
    is_stored = any(map(SavedNames(_ALL_HEADS).hold, replaced))
    has_head = is_stored or has_other_head(config, modules, replaced)
    yield from _saved(config, replaced, has_head=has_head)


def _overlapping_patterns(config: PeftConfig, modules: Sequence[str]) -> Iterator[Note]:
    """Notes on patterns that give one module different numbers.

    The first pattern that matches counts, and PEFT sorts them by name when it saves.
    """
    for field in ("rank_pattern", "alpha_pattern"):
        for module in modules if len(config.fields.get(field) or ()) > 1 else ():
            hits = config.matching_patterns(field, module)
            if len({value for _, value in hits}) > 1:
                yield Note(
                    "problem",
                    f"{field}: {listing(key for key, _ in hits)} all match {module}; the first "
                    f"counts, and PEFT does not keep their order when it saves",
                )
                break


def _saved(config: PeftConfig, replaced: Sequence[str], *, has_head: bool) -> Iterator[Note]:
    """Notes on whole tensors: modules to save, heads and biases."""
    saved = config.names("modules_to_save")
    names = SavedNames(saved)
    stored = {name for key in replaced for name in names.holding(key)}
    missing = [name for name in saved if name not in stored]
    # PEFT lists all names of a head for the task; a model has one of them, or another.
    heads = head_modules(config.text("task_type"))
    by_task = heads if set(heads) <= set(saved) else ()
    lost = [n for n in missing if n not in by_task and not (has_head and n in _HEADS)]
    if has_head and (others := [name for name in missing if name not in lost]):
        yield Note("info", f"modules_to_save also lists {listing(others)}, which is not stored")
    if lost:
        yield Note(
            "refusal",
            f"modules_to_save lists {listing(lost)}, which is not stored: what was trained "
            f"there is lost, and PEFT does not load such an adapter into a model that has it; "
            f"{without_lost('modules_to_save')}",
        )
    yield from _heads(config, replaced, has_head=has_head)
    biases = config.text("bias")
    is_bias = {key for key in replaced if "bias" in key}
    if biases in ("all", "lora_only") and not is_bias:
        may_be_lost = biases == "lora_only" and config.version < _BIASES_SINCE
        why = " (PEFT 0.7 to 0.20 lost those of 'lora_only')" if may_be_lost else ""
        yield Note(
            "problem" if may_be_lost else "info",
            f"bias is {biases!r}, and no bias is stored{why}",
        )
    listed = SavedNames(config.saved_modules())
    unlisted = [
        key
        for key in replaced
        if not listed.hold(key) and not (key in is_bias and biases in ("all", "lora_only"))
    ]
    if unlisted:
        yield Note("info", f"stored whole, not listed in modules_to_save: {listing(unlisted)}")


def _heads(config: PeftConfig, replaced: Sequence[str], *, has_head: bool) -> Iterator[Note]:
    """Notes on the heads that PEFT saves for the task, whether they are listed or not."""
    listed, task = config.names("modules_to_save"), config.text("task_type")
    heads = head_modules(task)
    by_task = [name for name in heads if name not in listed]
    stored = filter(SavedNames(by_task).hold, replaced)
    names = SavedNames(listed)
    unlisted = [key for key in stored if not names.hold(key)]
    if unlisted:
        yield Note(
            "info",
            f"modules_to_save does not list {listing(unlisted)}; with task_type {task}, PEFT "
            f"trains and loads it all the same",
        )
    elif heads and not has_head and by_task in ([], list(heads)):
        yield Note(
            "problem",
            f"task_type is {task}, and no head is stored: if the model has {listing(heads)}, what "
            f"was trained there is lost; a head of another name is as in the base",
        )
