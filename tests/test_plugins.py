"""Every plug-in is found, complete, documented and lawful, for existing in its folder."""

import dataclasses
import importlib
import inspect
import pickle
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from loratools import deltas, errors, formats, methods, registry
from loratools.cli import verbs
from loratools.deltas import Delta, keys_of, parameters_of
from loratools.deltas.lora import LoRA
from loratools.deltas.placed import Placed
from loratools.deltas.rows import Rows
from loratools.formats._modules import kinds as module_kinds
from loratools.formats._peft import kinds as peft_kinds
from loratools.io import dtypes
from loratools.io.source import Held
from loratools.methods import MethodOptions
from tests.deltas.examples import EXAMPLES, WANTED, WEIGHT, applied, weight_for

TESTS = Path(__file__).parent
KINDS = registry.names(deltas)
FORMATS = registry.names(formats)
METHODS = registry.names(methods)
CODECS = {"formats/_modules/kinds": module_kinds, "formats/_peft/kinds": peft_kinds}
PACKAGES = {"deltas": deltas, "formats": formats, "methods": methods, **CODECS}
PLUG_INS = [(package, name) for package in PACKAGES for name in registry.names(PACKAGES[package])]


# Registries


def test_names_of_a_registry_are_its_public_files() -> None:
    for package in PACKAGES.values():
        folder = Path(package.__path__[0])
        modules = [file.stem for file in folder.glob("[!_]*.py")]
        packages = [file.parent.name for file in folder.glob("[!_]*/__init__.py")]
        assert registry.names(package) == tuple(sorted(modules + packages))
        assert registry.names(package)


def test_listing_names_imports_nothing_and_what_formats_state_nothing_large() -> None:
    code = """
import sys
from loratools import formats, registry
assert formats.dialects()
large = [name for name in ("loratools.adapter", "loratools.io", "torch") if name in sys.modules]
large += [name for name in sys.modules if name.endswith((".read", ".write"))]
assert not large, large
from loratools import deltas, methods
found = [f"{package.__name__}.{name}" for package in (deltas, methods)
         for name in registry.names(package)]
assert found
loaded = [name for name in found if name in sys.modules]
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", registry.names(verbs))
def test_verb_has_its_short_help_alone_in_its_docstring(name: str) -> None:
    module = registry.load(verbs, name)
    assert registry.first_line(verbs, name) == module.__doc__ == module.command.short_help
    assert re.fullmatch(r"[A-Z][^\n]{5,60}\.", module.__doc__ or "")


@pytest.mark.parametrize("name", ["no-such-thing", "_unwrapped", "peft.keys", "../peft", ""])
def test_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(errors.UnsupportedError, match="peft"):
        registry.load(formats, name)


@pytest.mark.parametrize(("package", "name"), PLUG_INS)
def test_plug_in_is_documented_in_its_first_line(package: str, name: str) -> None:
    module = registry.load(PACKAGES[package], name)
    first = (module.__doc__ or "").strip().split("\n", maxsplit=1)[0]
    assert len(first) > 20
    assert first.endswith((".", "`"))


@pytest.mark.parametrize(("package", "name"), PLUG_INS)
def test_plug_in_has_a_test_file_of_its_own(package: str, name: str) -> None:
    folder = TESTS / package
    assert (folder / f"test_{name}.py").is_file() or list((folder / name).glob("test_*.py"))


# Formats


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("module", "function", "parameters"),
    [
        ("read", "claim", ["bundle"]),
        ("read", "decode", ["bundle", "options"]),
        ("write", "encode", ["adapter"]),
    ],
)
def test_format_has_its_three_functions(
    name: str, module: str, function: str, parameters: list[str]
) -> None:
    if module == "write" and not formats.can_write(formats.dialect_named(name)):
        page = (TESTS.parent / "docs" / "formats" / f"{name}.md").read_text()
        assert "only read" in page
        return
    found = getattr(importlib.import_module(f"{formats.__name__}.{name}.{module}"), function)
    signature = inspect.signature(found)
    assert list(signature.parameters) == parameters
    assert signature.return_annotation is not inspect.Signature.empty
    assert found.__doc__


@pytest.mark.parametrize("name", FORMATS)
def test_format_claims_nothing_of_nothing(name: str) -> None:
    from loratools.io.bundle import Bundle

    read = importlib.import_module(f"{formats.__name__}.{name}.read")
    empty = Bundle("nothing", {}, {}, None, (), 0)
    assert read.claim(empty) is formats.Sureness.NO
    assert read.claim(dataclasses.replace(empty, config={})) is formats.Sureness.NO


@pytest.mark.parametrize("name", FORMATS)
def test_format_states_itself(name: str) -> None:
    dialect = registry.load(formats, name).DIALECT
    assert type(dialect) is formats.Dialect
    assert dialect.name == name
    assert dialect.weights is None or dialect.weights.endswith(".safetensors")
    assert dialect.config is None or dialect.weights is not None
    assert dialect.config is None or dialect.config.endswith(".json")
    assert dialect.config is not None or not dialect.module_fields
    assert dialect.prefix == "" or dialect.prefix.endswith(".")
    assert dialect.library or not (dialect.tags or dialect.usage)


@pytest.mark.parametrize("name", FORMATS)
def test_format_states_options_that_are_choices_and_documents_them(name: str) -> None:
    page = (TESTS.parent / "docs" / "formats" / f"{name}.md").read_text()
    for option in formats.dialect_named(name).options:
        assert option.name.isidentifier()
        assert len(set(option.values)) == len(option.values)
        assert len(option.values) > 1 or option.number or option.text
        assert option.help.endswith(".")
        assert f"--{option.name.replace('_', '-')}" in page
        assert all(f"`{value}`" in page for value in option.values)


def test_options_of_formats_have_names_of_their_own() -> None:
    from loratools.cli.verbs import inspect, merge

    names = [option.name for dialect in formats.dialects() for option in dialect.options]
    for command in (inspect.command, merge.command):
        taken = [parameter.name for parameter in command.params]
        assert len(taken) == len(set(taken))
        assert set(names) < set(taken)


# Methods of combining

PAPER = re.compile(r"\d{4}, (arXiv:\d{4}\.\d{5}|doi:10\.\S+)\)")


@pytest.mark.parametrize("name", METHODS)
def test_method_names_its_paper_in_its_first_line(name: str) -> None:
    document = registry.load(methods, name).__doc__ or ""
    assert PAPER.search(document.split("\n", maxsplit=1)[0])


@pytest.mark.parametrize("name", METHODS)
def test_method_says_what_it_takes_and_gives(name: str) -> None:
    module = registry.load(methods, name)
    fields = [field.name for field in dataclasses.fields(MethodOptions)]
    assert isinstance(module.OPTIONS, tuple)
    assert set(module.OPTIONS) <= set(fields)
    assert len(set(module.OPTIONS)) == len(module.OPTIONS)
    assert isinstance(module.LOW_RANK, bool)


@pytest.mark.parametrize("name", METHODS)
def test_method_combines_a_task(name: str) -> None:
    combine = registry.load(methods, name).combine
    assert inspect.get_annotations(combine).keys() == {"task", "options", "return"}
    assert list(inspect.signature(combine).parameters) == ["task", "options"]
    assert combine.__doc__


def test_each_option_is_taken_by_a_method() -> None:
    taken = {option for name in METHODS for option in registry.load(methods, name).OPTIONS}
    assert taken == {field.name for field in dataclasses.fields(MethodOptions)}


# Kinds of updates


def public_members(protocol: type) -> frozenset[str]:
    names = {*vars(protocol), *inspect.get_annotations(protocol)}
    return frozenset(name for name in names if not name.startswith("_"))


def kinds_in(module: ModuleType) -> list[type]:
    """The classes that a module defines and that can be bound to a weight."""
    own = (
        c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__
    )
    return [c for c in own if hasattr(c, "bind")]


@pytest.mark.parametrize("name", KINDS)
def test_kind_is_one_final_frozen_dataclass(name: str) -> None:
    (kind,) = kinds_in(registry.load(deltas, name))
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert kind.__final__ is True  # type: ignore[attr-defined]
    assert kind.__bases__ == (object,)


@pytest.mark.parametrize("name", KINDS)
def test_kind_has_every_member_of_the_protocol_with_a_docstring(name: str) -> None:
    (kind,) = kinds_in(registry.load(deltas, name))
    members = public_members(Delta)
    assert {"additive", "kind", "sources", "shape", "scaled", "low_rank", "bind"} < members
    fields = {field.name for field in dataclasses.fields(kind)}
    assert [m for m in members if m not in fields and not hasattr(kind, m)] == []
    own = {name: value for name, value in vars(kind).items() if name in members - {"caveat"}}
    assert [m for m, value in own.items() if m not in fields and not inspect.getdoc(value)] == []


ALL = [example for examples in EXAMPLES.values() for example in examples]
NAMES = [f"{name}-{n}" for name, examples in EXAMPLES.items() for n in range(len(examples))]
each_example = pytest.mark.parametrize("delta", ALL, ids=NAMES)


@pytest.mark.parametrize("name", KINDS)
def test_kind_has_an_example(name: str) -> None:
    found = {type(example) for example in EXAMPLES.get(name, ())}
    assert found == set(kinds_in(registry.load(deltas, name))), f"{name}: {WANTED}"


@each_example
def test_example_describes_itself(delta: Delta) -> None:
    assert delta.kind
    assert delta.shape[0] == 4
    assert keys_of(delta)
    assert len(set(keys_of(delta))) == len(keys_of(delta))
    assert parameters_of(delta) >= 4
    assert isinstance(delta.by_rows, bool)
    assert delta.low_rank is None or isinstance(delta.low_rank, LoRA)


@pytest.mark.parametrize("dtype", sorted(set(dtypes.BITS) - set(dtypes.FACTORS)))
@each_example
def test_what_is_not_stored_as_floats_is_no_part_of_a_change(delta: Delta, dtype: str) -> None:
    for name, part in vars(delta).items():
        if isinstance(part, Held):
            with pytest.raises(errors.UnsupportedError, match=f"is stored as {dtype}"):
                dataclasses.replace(delta, **{name: dataclasses.replace(part, dtype=dtype)})  # type: ignore[type-var]


@each_example
def test_change_changes_the_weight(delta: Delta) -> None:
    weight = weight_for(delta)
    assert not torch.equal(applied(delta, weight), weight)


@each_example
def test_strength_zero_leaves_the_weight_as_it_is(delta: Delta) -> None:
    weight = weight_for(delta)
    assert torch.equal(applied(delta, weight, strength=0), weight)


@each_example
def test_blocks_do_not_show(delta: Delta) -> None:
    weight = weight_for(delta)
    whole = applied(delta, weight)
    step = 2 if delta.by_rows else 4
    for height in (1, 2, 3):
        assert torch.equal(applied(delta, weight, height=height, step=step), whole)


def is_additive(delta: Delta) -> bool:
    assert delta.additive is None or delta.additive is delta
    return delta.additive is not None


@each_example
def test_additive_means_the_same_difference_for_every_weight(delta: Delta) -> None:
    weight = weight_for(delta)
    differences = [applied(delta, w) - w for w in (weight, 2 * weight, torch.zeros_like(weight))]
    assert all(torch.equal(d, differences[0]) for d in differences) == is_additive(delta)


@each_example
def test_additive_change_is_taken_out_by_its_negative(delta: Delta) -> None:
    weight = weight_for(delta)
    back = applied(delta, applied(delta, weight), strength=-1)
    assert torch.equal(back, weight) == is_additive(delta)


@pytest.mark.parametrize("delta", [example for example in ALL if len(example.shape) == 2])
def test_transposed_change_changes_the_transposed_weight(delta: Delta) -> None:
    if isinstance(delta, Rows):
        # Only an embedding has rows for tokens, and it has one orientation.
        with pytest.raises(NotImplementedError):
            delta.transposed()
        return
    expected = applied(delta, WEIGHT)
    if isinstance(delta, Placed) and not is_additive(delta):
        with pytest.raises(errors.UnsupportedError, match="some rows"):
            delta.transposed()
        return
    transposed = delta.transposed()
    # Norms and singular values are exact for a matrix this near to the weight.
    near = 0.0 if is_additive(delta) else 16 * torch.finfo(WEIGHT.dtype).eps * WEIGHT.norm().item()
    assert transposed.shape == delta.shape[::-1]
    assert (applied(transposed, WEIGHT.T.contiguous()).T - expected).abs().max() <= near
    assert torch.equal(applied(transposed.transposed(), WEIGHT), expected)


@each_example
def test_unpickled_change_is_the_same_change(delta: Delta) -> None:
    copy = pickle.loads(pickle.dumps(delta))
    weight = weight_for(delta)
    assert torch.equal(applied(copy, weight), applied(delta, weight))
