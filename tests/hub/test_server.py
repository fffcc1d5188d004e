"""The loopback Hub, as the real client sees it."""

from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from tests.hub.server import Hub

WEIGHTS = bytes(range(256)) * 64
FILES = {"config.json": b"{}\n", "model.safetensors": WEIGHTS, "deep/er/notes.txt": b"deep\n"}


def api_of(hub: Hub, token: str | bool = False) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=token)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def test_a_pushed_folder_comes_back(hub, tmp_path):
    api = api_of(hub, hub.user("alice"))
    api.create_repo("alice/adapter")
    pushed = write(tmp_path / "pushed", FILES)
    commit = api.upload_folder(repo_id="alice/adapter", folder_path=pushed)
    assert commit.oid == hub.head("alice/adapter")
    assert hub.files("alice/adapter") == FILES
    pulled = Path(snapshot_download("alice/adapter", endpoint=hub.endpoint, token=False))
    assert {path: (pulled / path).read_bytes() for path in FILES} == FILES
    assert hub.fsck("alice/adapter") == ""
