"""Compares the parts that a PEFT config announces as trained with the parts that are stored.

A part that is announced and not stored was lost. If PEFT loads such an adapter at all, it puts the
values with which training starts in its place.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from loratools.errors import counted, listing, shorten
from loratools.formats._peft.codecs import Codecs
from loratools.formats._peft.config import PeftConfig, head_modules
from loratools.formats._peft.kinds import Announcement, Modules
from loratools.io.source import Source
from loratools.names.saved import SavedNames
from loratools.parts import Announced, Note
from loratools.typed import valued, without_lost

_BIASES = ("none", "all", "lora_only")


def announced_parts(
    config: PeftConfig, codecs: Codecs, modules: Modules, tokens: Mapping[str, Source]
) -> Iterator[Note]:
    """Notes on parts of updates and rows of embeddings that are announced or stored, but not both.

    Notes on announcements that PEFT does not understand are among them.
    """
    yield from _odd_flags(config, codecs.flags())
    for codec, announcement in codecs.announced:
        yield from _parts(config, modules, announcement, codec.beside)
    yield from _tokens(config, tokens)
    biases = config.fields.get("bias")
    if biases is not None and biases not in _BIASES:
        yield Note(
            "refusal",
            f"bias is {biases!r:.40}, which is none of {', '.join(_BIASES)}: it does not say which "
            f"biases were trained, and PEFT does not load such an adapter",
        )


def announced_of(
    config: PeftConfig,
    modules: Iterable[str],
    replaced: Iterable[str],
    tokens: Mapping[str, Source],
) -> Announced:
    """The announcements of the config that can be checked only beside a base.

    `modules` are the modules with updates, and `replaced` the targets of whole tensors.
    """
    heads = head_modules(config.text("task_type"))
    biases = config.fields.get("bias")
    return Announced(
        biases=biases if biases in ("all", "lora_only") else None,
        modules=() if config.is_narrowed else config.unused_targets(),
        saved=config.saved_modules(),
        rows=_repeated_tokens(config, tokens),
        ties_ends=config.flag("ensure_weight_tying"),
        heads=() if has_other_head(config, modules, replaced) else heads,
    )


def has_other_head(config: PeftConfig, modules: Iterable[str], replaced: Iterable[str]) -> bool:
    """Whether a head is stored whose name is none of those that PEFT knows for the task.

    A head is a whole tensor outside the model that has the updates. PEFT announces its own names
    for every model. A head of another name is trained only where the user has listed it.
    """
    names = head_modules(config.text("task_type"))
    if not names:
        return False
    models = {module.partition(".")[0] for module in modules}
    beside = [key for key in replaced if key.partition(".")[0] not in models]
    return bool(beside) and not any(map(SavedNames(names).hold, beside))


def other_ranks(found: Mapping[tuple[int, int, bool], Sequence[str]]) -> Iterator[Note]:
    """Notes on modules whose tensors have another rank than the config says.

    `found` has these modules by the two ranks, the config's and the tensors', and by whether the
    factors have the config's rank if each is the other.
    """
    for (expected, rank, is_swapped), paths in found.items():
        asked = f"the other way round they have rank {expected}: are A and B swapped?; "
        yield Note(
            "refusal",
            f"the config says rank {expected}, and the tensors have rank {rank}: "
            f"{listing(paths, 3)}; {asked if is_swapped else ''}the scaling divides by the one "
            f"that it was trained with, and "
            f"PEFT does not load such an adapter; {valued('config')} with the right r or "
            f"rank_pattern settles it",
        )


def _parts(
    config: PeftConfig, modules: Modules, part: Announcement, beside: Sequence[str]
) -> Iterator[Note]:
    """Notes on a part that is stored and not announced, or announced and not stored.

    `beside` are the roles of the parts beside which the announced one is expected.
    """
    if not part.is_set(config):
        having = [module for module, roles in modules.items() if part.role in roles]
        if having:
            yield Note(
                "problem",
                f"{part.field} is not set, and {part.role} is stored: {listing(having, 3)}; it is "
                f"applied here, and PEFT leaves it out",
            )
        return
    lacking = [
        module
        for module, roles in modules.items()
        if part.role not in roles and any(role in roles for role in beside)
    ]
    if lacking:
        yield Note(
            "refusal",
            f"{part.field} is set, and {len(lacking)} of {counted(len(modules), 'module')} "
            f"{'has' if len(lacking) == 1 else 'have'} no {part.role}: {listing(lacking, 3)}; "
            f"what was trained there is lost, and PEFT takes {part.instead} for it; "
            f"{without_lost(part.field)}",
        )


def _tokens(config: PeftConfig, tokens: Mapping[str, Source]) -> Iterator[Note]:
    """A note on rows of trained tokens that are announced and not stored."""
    indices = config.fields.get("trainable_token_indices")
    if not indices:
        return
    repeated = _repeated_tokens(config, tokens)
    missing = [name for name in _lacking(indices, tokens) if name not in repeated]
    if missing or not tokens:
        where = f" of {listing(missing)}" if missing else ""
        yield Note(
            "refusal",
            f"trainable_token_indices announces rows{where} that are not stored; PEFT does not "
            f"load such an adapter",
        )


def _repeated_tokens(config: PeftConfig, tokens: Mapping[str, Source]) -> tuple[str, ...]:
    """The announced modules without stored rows whose indices are those of a module with rows.

    PEFT stores the rows once if the base ties the two modules.
    """
    indices = config.fields.get("trainable_token_indices")
    if not isinstance(indices, dict):
        return ()
    lacking = _lacking(indices, tokens)
    known = [rows for name, rows in indices.items() if name not in lacking]
    return tuple(name for name in lacking if indices[name] in known)


def _lacking(indices: object, tokens: Mapping[str, Source]) -> Sequence[str]:
    """The modules that `trainable_token_indices` names and for which no rows are stored."""
    return [
        name
        for name in (indices if isinstance(indices, dict) else ())
        if not any(module == name or module.endswith(f".{name}") for module in tokens)
    ]


def _odd_flags(config: PeftConfig, flags: Iterable[str]) -> Iterator[Note]:
    """Notes on flags that are not booleans, of which PEFT asks only whether they are truthy."""
    for name in flags:
        value = config.fields.get(name)
        if value is None or isinstance(value, bool):
            continue
        meaning = "true" if config.flag(name) else "false"
        why = ", as any text but an empty one is" if isinstance(value, str) and value else ""
        yield Note(
            "info", f"{name} is {shorten(repr(value), 40)}, which PEFT takes for {meaning}{why}"
        )
