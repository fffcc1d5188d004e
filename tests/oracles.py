"""Peer libraries to compare with."""

import importlib
import os
from types import ModuleType

import pytest

#: Marks for tests that let PEFT and transformers do what they warn of, or are about to rename.
WARNED = [
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to"),
]


def oracle(name: str) -> ModuleType:
    """The peer library `name`; without it the calling module is skipped, or fails where it must
    not be (`LORATOOLS_REQUIRE_ORACLES=1`, as CI sets it).
    """
    if os.environ.get("LORATOOLS_REQUIRE_ORACLES") == "1":
        return importlib.import_module(name)
    module: ModuleType = pytest.importorskip(name)
    return module
