"""Peer libraries to compare with."""

import importlib
import os
from types import ModuleType

import pytest


def oracle(name: str) -> ModuleType:
    """The peer library `name`; without it the calling module is skipped, or fails where it must
    not be (`LORATOOLS_REQUIRE_ORACLES=1`, as CI sets it).
    """
    if os.environ.get("LORATOOLS_REQUIRE_ORACLES") == "1":
        return importlib.import_module(name)
    module: ModuleType = pytest.importorskip(name)
    return module
