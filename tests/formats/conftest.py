"""A fixture that makes new dialects for a test, in a folder that loratools searches as well."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from loratools import formats

_INIT = '''"""A dialect that only a test has."""

from loratools.formats import Dialect, Option

DIALECT = Dialect({fields})
'''
_READ = '''"""Reads nothing."""

from loratools.adapter import Adapter
from loratools.parts import Filed, Note, Provenance
from loratools.formats import Sureness


def claim(bundle):
    return Sureness.{claim}


def fits(bundle, options):
    return "x" in bundle.tensors


def decode(bundle, options):
    said = [f"{{name}}={{value}}" for name, value in options.items()]
    said += sorted(map(str, (bundle.config or {{}}).items()))
    return Adapter(
        where=bundle.where,
        updates={{}},
        replaced={{}},
        rows={{}},
        copies=(),
        inert={{}},
        provenance=Provenance(),
        notes=tuple(Note("info", text) for text in said),
        companions=(),
        nbytes=0,
        filed=Filed("{name}", config=bundle.config, metadata=bundle.metadata),
    )
'''
_WRITE = '''"""Writes what was filed only."""

from loratools.parts import Filed
from loratools.io.bundle import Bundle


def encode(adapter):
    filed = adapter.filed or Filed("none")
    return Bundle(adapter.where, {}, filed.metadata, filed.config, adapter.companions, 0)
'''


class Toy(Protocol):
    """Makes the folder of a dialect with this sureness; `fields` are fields of its `Dialect`."""

    def __call__(self, name: str, claim: str = "NO", **fields: Any) -> None: ...


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    folder = tmp_path / "dialects"
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(folder)])
    made = []

    def make(name: str, claim: str = "NO", **fields: Any) -> None:
        (folder / name).mkdir(parents=True)
        fields = {"name": name, **fields}
        stated = ", ".join(f"{field}={value!r}" for field, value in fields.items())
        (folder / name / "__init__.py").write_text(_INIT.format(fields=stated))
        (folder / name / "read.py").write_text(_READ.format(claim=claim, name=name))
        (folder / name / "write.py").write_text(_WRITE)
        importlib.invalidate_caches()
        formats.dialects.cache_clear()
        made.append(f"{formats.__name__}.{name}")

    yield make
    formats.dialects.cache_clear()
    for module in [m for m in sys.modules if m.startswith(tuple(made or ["-"]))]:
        del sys.modules[module]
