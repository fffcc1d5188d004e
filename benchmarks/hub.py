"""Compare pull and push of 200 MB with the Hub's own client, on the loopback Hub of the tests.

    python benchmarks/hub.py FOLDER --runs 5

Each run is a fresh process with an empty cache; the tools take turns, forwards and backwards. The
client checks sizes; loratools also checks the hashes of everything. The server is written in
Python and runs in another process.
"""

import argparse
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import torch
from data import write_json
from draws import Draw, write_safetensors
from measure import measure
from tools import CHECKOUT, environment

LAYERS: Final = 48
WIDTH: Final = 8192
RANK: Final = 64
REPO: Final = "ann/large"

SNAPSHOT: Final = "from huggingface_hub import snapshot_download; snapshot_download('{repo}')"
UPLOAD: Final = (
    "from huggingface_hub import HfApi; a = HfApi(); a.create_repo('{repo}', exist_ok=True); "
    "a.upload_folder(repo_id='{repo}', folder_path='{folder}')"
)


def write_adapter(folder: Path) -> None:
    if folder.exists():
        return
    folder.mkdir(parents=True)
    key = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    factors = [
        Draw(key.format(layer, part), shape, torch.float32, std=0.01)
        for layer in range(LAYERS)
        for part, shape in (("A", (RANK, WIDTH)), ("B", (WIDTH, RANK)))
    ]
    write_safetensors(folder / "adapter_model.safetensors", factors, "hub")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": ["q_proj"]}
    write_json(folder / "adapter_config.json", config)


def serve(root: Path, adapter: Path, pipe: Connection) -> None:
    """Serve a Hub with the adapter until the pipe is closed; each push has its own repository."""
    sys.path.insert(0, str(CHECKOUT))
    from tests.hub.server import running

    with running() as server:
        hub = server.fresh(root)
        token = hub.user("ann")
        hub.create_repo(REPO, {path.name: path.read_bytes() for path in adapter.iterdir()})
        pipe.send(hub.environment(root / "home", token))
        pipe.recv()


@contextmanager
def loopback(root: Path, adapter: Path) -> Iterator[dict[str, str]]:
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=serve, args=(root, adapter, theirs)
    )
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send(None)
        process.join()


def settle(file: Path) -> None:
    """Restore the same state before each run: nothing left to write, and 1 GiB of memory at hand.

    A virtual machine returns memory that was free for long to its host, and gets it back slowly.
    """
    os.sync()
    file.write_bytes(bytes(2**30))
    file.unlink()


def commands(number: int, adapter: Path) -> dict[str, list[str]]:
    """The commands to be timed, each with repositories of its own, which it creates."""
    python, module = sys.executable, [sys.executable, "-m", "loratools"]
    mine, theirs = f"ann/mine-{number}", f"ann/theirs-{number}"
    return {
        "snapshot_download": [python, "-c", SNAPSHOT.format(repo=REPO)],
        "loratools pull": [*module, "pull", REPO],
        "upload_folder": [python, "-c", UPLOAD.format(repo=theirs, folder=adapter)],
        "loratools push": [*module, "push", str(adapter), mine, "--create", "--no-card"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Pull and push beside the Hub's own client.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="for the data")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    adapter = arguments.folder.absolute() / "adapter-hub"
    write_adapter(adapter)
    seconds: dict[str, list[float]] = {}
    with (
        tempfile.TemporaryDirectory(dir=arguments.folder) as scratch,
        loopback(Path(scratch) / "hub", adapter) as variables,
    ):
        home = Path(scratch) / "home"
        for number in range(arguments.runs):
            turns = list(commands(number, adapter).items())
            for tool, command in reversed(turns) if number % 2 else turns:
                shutil.rmtree(home, ignore_errors=True)
                settle(Path(scratch) / "memory")
                place = environment({**variables, "HF_HOME": str(home)})
                seconds.setdefault(tool, []).append(measure(command, environment=place).wall_s)
    print("| tool | s, median (min–max) | × the client |\n|---|--:|--:|")
    client = ""
    for tool, found in seconds.items():
        client = client if tool.startswith("loratools") else tool
        ratio = statistics.median(found) / statistics.median(seconds[client])
        middle = f"{statistics.median(found):.2f} ({min(found):.2f}–{max(found):.2f})"
        print(f"| {tool} | {middle} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
