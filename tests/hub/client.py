"""Short words for what the tests do with the real client."""

from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download

from tests.hub.server import Hub

REPO = "alice/adapter"
WEIGHTS = bytes(range(256)) * 256  # 64 KiB
FILES = {"config.json": b"{}\n", "deep/er/notes.txt": b"deep\n", "model.safetensors": WEIGHTS}


def api_of(hub: Hub, token: str | bool = False) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=token)


def owner(hub: Hub, name: str = "alice") -> HfApi:
    """The client of a user who may write."""
    return api_of(hub, hub.user(name))


def add(path: str, data: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(path, data)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def read(folder: str | Path) -> dict[str, bytes]:
    """The files of a downloaded folder, without those that the Hub and the client add."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    contents = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    return {
        p: data for p, data in contents.items() if not p.startswith((".gitattributes", ".cache"))
    }


def pull(hub: Hub, path: str = "model.safetensors", revision: str = "main") -> bytes:
    """One file, by the client's function for one file, without a token."""
    found = hf_hub_download(REPO, path, revision=revision, endpoint=hub.endpoint, token=False)
    return Path(found).read_bytes()
