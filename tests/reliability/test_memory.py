"""Memory depends on the adapter and on the width of a weight, not on the size of the model."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.commands import start
from tests.hostile.checkpoints import lora, write_adapter, write_safetensors

IDLE = """
import torch, loratools.merging.merge, loratools.merging.edit, loratools.formats.peft.read
from loratools.cli import main
torch.ones(10, 10) @ torch.ones(10, 10)
print(open("/proc/self/status").read())
"""


def anonymous(status: str) -> float:
    """Private memory in MB: mapped files, which the kernel can take back, do not count."""
    return int(status.split("RssAnon:")[1].split(maxsplit=1)[0]) / 1000


def peak(process: "subprocess.Popen[str]") -> float:
    most = 0.0
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        text = status.read_text()
        if "RssAnon" in text:
            most = max(most, anonymous(text))
        time.sleep(0.005)
    return most


@pytest.mark.slow
@pytest.mark.parametrize("rows", [2**16, 2**18], ids=["a quarter", "1 GB"])
def test_a_merge_needs_100_mb_beside_torch(
    tmp_path: Path, rows: int, record_property: Callable[[str, object], None]
) -> None:
    """Of an embedding of up to 1 GB, with a LoRA on it, and of a linear layer."""
    base, width = tmp_path / "base", 2048
    weights = {"embed.weight": ("BF16", (rows, width)), "q.weight": ("BF16", (width, width))}
    write_safetensors(base / "model.safetensors", weights)
    factors = {
        "embed.lora_embedding_A": ("F32", (2, rows)),
        "embed.lora_embedding_B": ("F32", (width, 2)),
    }
    adapter = write_adapter(
        tmp_path / "adapter", factors | lora("q", (width, width)), target_modules=["embed", "q"]
    )
    found = subprocess.run([sys.executable, "-c", IDLE], capture_output=True, text=True, check=True)
    idle = anonymous(found.stdout)
    process = start("merge", base, adapter, "-o", tmp_path / "merged", "--jobs", 2)
    most = peak(process)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "4 of 4 adapter tensors applied to 2 weights" in out
    record_property("idle", idle)
    record_property("peak", most)
    assert most < idle + 100
