"""Each spelling of a LoRA is recognised, and does what its formula says: no key is left over."""

import importlib
import json
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

from loratools import registry
from loratools.adapter import Adapter
from loratools.deltas import keys_of
from loratools.errors import FormatError
from loratools.files.opening import open_adapter
from loratools.formats import dialect_named, dialects
from tests.cli.test_imports import codes_without_torch
from tests.deltas.computing import applied
from tests.formats.bundles import bundle
from tests.formats.spellings import SPELLED, Spelled
from tests.narrowing import present


def saved(spelled: Spelled, folder: Path) -> Path:
    """The adapter as a file, or as a folder if it has a config."""
    dialect = dialect_named(spelled.dialect)
    path = folder / (dialect.weights or "adapter.safetensors")
    save_file(dict(spelled.tensors), path, dict(spelled.metadata))
    if spelled.config is None:
        return path
    (folder / present(dialect.config)).write_text(json.dumps(spelled.config))
    return folder


def explained(adapter: Adapter) -> list[str]:
    """The keys of all tensors that an adapter applies, or says that it carries along or ignores."""
    return [
        *(key for update in adapter.updates.values() for key in keys_of(update.delta)),
        *(key for replacement in adapter.replaced.values() for key in replacement.source.keys),
        *adapter.inert,
    ]


each_spelling = pytest.mark.parametrize("spelled", SPELLED, ids=lambda spelled: spelled.trainer)


@each_spelling
def test_spelling_is_read_as_its_formula_says(spelled: Spelled, tmp_path: Path) -> None:
    assert_as_spelled(open_adapter(saved(spelled, tmp_path)), spelled)


@each_spelling
def test_name_that_an_adapter_had_in_memory_changes_nothing(
    spelled: Spelled, tmp_path: Path
) -> None:
    tensors = {
        re.sub(r"(lora_[AB])\.(weight|bias)$", r"\1.my_style.\2", key): tensor
        for key, tensor in spelled.tensors.items()
    }
    if tensors.keys() != spelled.tensors.keys():
        named = replace(spelled, tensors=tensors)
        assert_as_spelled(open_adapter(saved(named, tmp_path)), named)


@pytest.mark.parametrize("component", ["unet.", "diffusion_model.", "lora_unet_", ""])
def test_two_adapters_in_one_file_are_refused(component: str, tmp_path: Path) -> None:
    tensors = {
        f"{component}{module}.lora_{part}.{name}.weight": torch.ones(2, 2)
        for module, name in (("a", "one"), ("b", "two"))
        for part in "AB"
    }
    save_file(tensors, tmp_path / "both.safetensors")
    with pytest.raises(
        FormatError, match=r"both\.safetensors: holds several adapters \(one, two\)"
    ):
        open_adapter(tmp_path / "both.safetensors")


def assert_as_spelled(adapter: Adapter, spelled: Spelled) -> None:
    assert present(adapter.filed).dialect == spelled.dialect
    assert adapter.kinds == spelled.kinds
    assert sorted(explained(adapter)) == sorted(spelled.tensors)
    assert set(adapter.inert) == set(spelled.inert)
    assert set(adapter.updates) == set(spelled.weights)
    for name, (before, after) in spelled.weights.items():
        delta = adapter.updates[name].delta
        assert present(delta.scaling).origin == spelled.origin, name
        # A DoRA divides by norms, which have a rounding error of at most one for each entry.
        allowed = before.shape[1] * torch.finfo(torch.float64).eps if delta.additive is None else 0
        torch.testing.assert_close(applied(delta, before), after, rtol=allowed, atol=0)
    assert set(adapter.replaced) == set(spelled.replaced)
    for name, tensor in spelled.replaced.items():
        assert torch.equal(adapter.replaced[name].source.read(), tensor), name


def test_every_format_that_is_recognised_has_a_spelling() -> None:
    spelled = {spelled.dialect for spelled in SPELLED}
    # Formats by position have names that only their tables know, and one is what the user says.
    apart = {"cloneofsimo", "described", "sam"}
    assert spelled | apart == {dialect.name for dialect in dialects()}


def test_spelling_is_recognised_without_torch(tmp_path: Path) -> None:
    paths = []
    for number, spelled in enumerate(SPELLED):
        folder = tmp_path / str(number)
        folder.mkdir()
        paths.append(saved(spelled, folder).relative_to(tmp_path))
    codes = codes_without_torch([f"inspect {path} --json" for path in paths], tmp_path)
    assert set(codes.values()) == {0}, codes


def test_dialect_asks_for_its_codecs_once_and_not_for_each_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To list a folder takes longer than anything else that is done with a key."""
    calls = 0

    def counted(package: ModuleType) -> tuple[str, ...]:
        nonlocal calls
        calls += 1
        return names(package)

    names = registry.names
    monkeypatch.setattr(registry, "names", counted)
    for dialect in dialects():
        reader = importlib.import_module(f"loratools.formats.{dialect.name}.read")
        for end in ("lora_down.weight", "lora_A.weight", "other"):
            keys = {f"lora_unet_{number}.{end}": (2, 2) for number in range(500)}
            calls = 0
            reader.claim(bundle(keys, None))
            assert calls < 20, (dialect.name, end)
