"""Each spelling of a LoRA is recognised, and does what its formula says: no key is left over."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from loratools.adapter import Adapter
from loratools.deltas import keys_of
from loratools.files.opening import open_adapter
from loratools.formats import dialect_named, dialects
from tests.deltas.computing import applied
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


@pytest.mark.parametrize("spelled", SPELLED, ids=lambda spelled: spelled.trainer)
def test_spelling_is_read_as_its_formula_says(spelled: Spelled, tmp_path: Path) -> None:
    adapter = open_adapter(saved(spelled, tmp_path))
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


def test_every_dialect_has_a_spelling() -> None:
    assert {spelled.dialect for spelled in SPELLED} == {dialect.name for dialect in dialects()}
