"""Finds the tensors of modules that PEFT saves whole: it matches modules by suffixes of names."""

from collections.abc import Iterable, Iterator, Mapping

from loratools.errors import UnsupportedError, shorten
from loratools.extracting.pairing import natural
from loratools.io.source import Source
from loratools.typed import one_of


def saved_modules(
    modules: Mapping[str, str], tensors: Mapping[str, Source]
) -> Iterator[tuple[str, Source]]:
    """Yield the tensors of some modules with their names, each weight before its bias.

    `modules` maps each module to the tensor because of which it is saved. Small modules whose names
    PEFT would match as well are added.

    Raises:
        UnsupportedError: a module holds others, or its name is a suffix of another module's.
    """
    owned: dict[str, list[str]] = {}
    for name in tensors:
        owned.setdefault(name.rpartition(".")[0], []).append(name)
    for module in sorted(_with_namesakes(modules, owned), key=natural):
        for name in sorted(owned[module], key=lambda name: not name.endswith("weight")):
            yield name, tensors[name]


def _with_namesakes(
    modules: Mapping[str, str], owned: Mapping[str, Iterable[str]]
) -> dict[str, str]:
    """The modules, and further small ones that PEFT would save as well."""
    found = dict(modules)
    outer = {name.rpartition(".")[0] for name in owned} | _containers(owned)
    for module, why in modules.items():
        if not module or module in outer:
            raise UnsupportedError(
                f"{shorten(why)}: PEFT saves whole modules, and this one holds others",
                tensor=why,
                hint=f"leave it out with {one_of('skip', why)}",
            )
        for other in [*owned, *outer]:
            if other == module or not other.endswith(module):
                continue
            if other in outer or not _is_alike(other, module):
                raise UnsupportedError(
                    f"{shorten(why)}: PEFT would save {shorten(other)} as well, whose name ends "
                    f"with {shorten(module)}",
                    tensor=why,
                    hint=f"leave it out with {one_of('skip', why)}",
                )
            found[other] = why
    return found


def _containers(owned: Iterable[str]) -> set[str]:
    """The names of all modules that contain others."""
    found = set()
    for module in owned:
        while "." in module:
            module = module.rpartition(".")[0]  # noqa: PLW2901
            found.add(module)
    return found


def _is_alike(other: str, module: str) -> bool:
    """Whether both modules are norms, which are small enough to be stored along."""
    return "norm" in module.rpartition(".")[2] and "norm" in other.rpartition(".")[2]
