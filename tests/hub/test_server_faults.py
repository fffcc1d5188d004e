"""What the real client makes of each fault: what loratools has to expect of it.

Where the client is at fault, the test says so; if such a test fails with a newer client, good.
"""

import json
import time
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.hf_api import CommitInfo

from tests.hub.client import FILES, REPO, WEIGHTS, add, api_of, owner, pull, read
from tests.hub.server import Hub, faults
from tests.hub.server.fault import Fault

BLOB = f"{REPO}/[0-9a-f]{{64}}"  # the address of a large file in the storage
BACKOFF = [1, 2, 4, 8, 8]


@pytest.fixture(autouse=True)
def _adapter(hub: Hub) -> None:
    hub.create_repo(REPO, FILES)


def ranges(hub: Hub) -> list[str | None]:
    return [request.headers.get("range") for request in hub.log.of("GET", BLOB)]


# --- downloads ------------------------------------------------------------------------------------


def test_a_body_cut_by_fin_is_resumed_in_the_call(
    hub: Hub, sleeps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the last whole chunk of 10 MiB, so that a file below that begins again."""
    hub.fail(faults.Cut(after=50_000), BLOB, method="GET")
    assert pull(hub) == WEIGHTS
    assert ranges(hub) == [None, None]
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 20_000)
    hub.log.clear()
    hub.fail(faults.Cut(after=50_000), BLOB, method="GET")
    hf_hub_download(REPO, "model.safetensors", endpoint=hub.endpoint, force_download=True)
    assert ranges(hub) == [None, "bytes=40000-"]
    assert [request.sent for request in hub.log.of("GET", BLOB)] == [50_000, len(WEIGHTS) - 40_000]
    assert sleeps == [1, 1]


@pytest.mark.parametrize("after", [None, 0, 50_000])
def test_a_connection_reset_while_downloading_is_not_retried(hub: Hub, after: int | None) -> None:
    hub.fail(faults.Reset(after), BLOB, method="GET")
    with pytest.raises(httpx2.ReadError, match="reset"):
        pull(hub)
    assert len(ranges(hub)) == 1
    assert pull(hub) == WEIGHTS  # from the start
    assert ranges(hub) == [None, None]


def test_a_connection_reset_at_head_is_not_retried(hub: Hub) -> None:
    hub.fail(faults.Reset(), "resolve", method="HEAD")
    with pytest.raises(httpx2.ReadError, match="reset"):
        pull(hub)
    assert [request.status for request in hub.log] == [None]


def test_a_stalled_body_is_read_again_after_the_timeout(
    hub: Hub, sleeps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    hub.fail(faults.Stall(after=1000, seconds=30), BLOB, method="GET")
    assert pull(hub) == WEIGHTS
    assert len(ranges(hub)) == 1 + len(sleeps)
    assert set(sleeps) == {1}


def test_a_slow_body_takes_its_time(hub: Hub) -> None:
    hub.fail(faults.Slow(bytes_per_second=200_000), BLOB, method="GET")
    start = time.monotonic()
    assert pull(hub) == WEIGHTS
    assert time.monotonic() - start >= len(WEIGHTS) / 200_000


@pytest.mark.parametrize("status", [500, 503])
def test_an_error_of_the_storage_is_not_retried(hub: Hub, status: int) -> None:
    hub.fail(faults.Status(status), BLOB, method="GET")
    with pytest.raises(HfHubHTTPError):
        pull(hub)
    assert len(ranges(hub)) == 1


def test_too_many_requests_are_waited_for(hub: Hub, sleeps: list[float]) -> None:
    hub.fail(faults.Status(429, {"Retry-After": "7"}), BLOB, method="GET")
    assert pull(hub) == WEIGHTS
    assert sleeps == [7 + 1]


def test_an_error_at_head_is_tried_again_if_nothing_is_cached(
    hub: Hub, sleeps: list[float]
) -> None:
    hub.fail(faults.Status(503), "resolve", method="HEAD", times=None)
    with pytest.raises(LocalEntryNotFoundError):
        pull(hub)
    assert sleeps == BACKOFF
    assert len(hub.log.of("HEAD")) == 1 + 6


def test_a_hub_that_is_not_there(hub: Hub) -> None:
    with pytest.raises(LocalEntryNotFoundError):
        snapshot_download(REPO, endpoint=hub.nowhere, token=False)
    assert not hub.log


@pytest.mark.parametrize("status", [401, 403])
def test_an_address_that_is_no_longer_signed(hub: Hub, status: int) -> None:
    hub.fail(faults.Status(status), BLOB, method="GET")
    with pytest.raises(HfHubHTTPError) as refused:
        pull(hub)
    assert refused.value.response.status_code == status


# --- lies -----------------------------------------------------------------------------------------


def test_a_flipped_bit_goes_unnoticed(hub: Hub) -> None:
    """By the client: it looks at the size, never at the hash."""
    hub.fail(faults.Flip(offset=1000), BLOB, method="GET")
    pulled = pull(hub)
    assert [i for i, byte in enumerate(WEIGHTS) if byte != pulled[i]] == [1000]
    assert pulled[1000] == WEIGHTS[1000] ^ 1


def test_a_body_shorter_than_was_said_at_head_is_noticed(hub: Hub) -> None:
    hub.fail(faults.Length(1000), BLOB, method="GET")
    with pytest.raises(OSError, match="Consistency check failed"):
        pull(hub)


def test_a_body_shorter_than_it_says_itself_is_a_cut(hub: Hub, sleeps: list[float]) -> None:
    hub.fail(faults.Length(len(WEIGHTS) + 1), BLOB, method="GET")
    assert pull(hub) == WEIGHTS
    assert len(ranges(hub)) == 2


def test_a_short_body_without_a_size_at_head_goes_unnoticed(hub: Hub) -> None:
    hub.fail(faults.Headers({"X-Linked-Size": None}), "resolve", method="HEAD")
    hub.fail(faults.Length(1000), BLOB, method="GET")
    assert pull(hub) == WEIGHTS[:1000]


def test_a_lie_about_the_size_is_noticed(hub: Hub) -> None:
    hub.fail(faults.Headers({"X-Linked-Size": "5"}), "resolve", method="HEAD")
    with pytest.raises(OSError, match="should be of size 5"):
        pull(hub)


def test_a_lie_about_the_length_of_a_small_file_is_noticed(hub: Hub) -> None:
    hub.fail(faults.Length(5), "resolve", method="HEAD")
    with pytest.raises(OSError, match="should be of size 5"):
        pull(hub, "config.json")


def test_a_lie_about_the_hash_goes_unnoticed(hub: Hub) -> None:
    hub.fail(faults.Headers({"X-Linked-Etag": f'"{"0" * 64}"'}), "resolve", method="HEAD")
    assert pull(hub) == WEIGHTS


def test_an_etag_with_a_path_in_it_is_written_outside_of_the_cache(hub: Hub) -> None:
    """The client's fault: whoever answers chooses where the file goes."""
    lie = faults.Headers({"X-Linked-Etag": '"../../../outside"'})
    hub.fail(lie, "resolve", method="HEAD")
    pull(hub)
    cache = Path(constants.HF_HUB_CACHE)
    assert (cache / "../outside").read_bytes() == WEIGHTS


def test_a_lie_about_the_commit_leads_to_another_folder(hub: Hub) -> None:
    commit, lie = hub.head(REPO), "1" * 40
    hub.fail(faults.Headers({"X-Repo-Commit": lie}), "resolve", method="HEAD", times=None)
    found = hf_hub_download(REPO, "config.json", revision=commit, endpoint=hub.endpoint)
    assert Path(found).parent.name == lie
    folder = snapshot_download(REPO, revision=commit, endpoint=hub.endpoint, token=False)
    assert (Path(folder).name, Path(folder).exists()) == (commit, False)


def test_a_tree_with_a_path_out_of_the_folder_is_refused(hub: Hub, tmp_path: Path) -> None:
    def outwards(body: bytes) -> bytes:
        return json.dumps(
            [{**item, "path": "../" + item["path"]} for item in json.loads(body)]
        ).encode()

    hub.fail(faults.Body(outwards), "/tree/", times=None)
    with pytest.raises(ValueError, match=r"cannot contain a '\.\.'"):
        snapshot_download(REPO, endpoint=hub.endpoint, token=False, local_dir=tmp_path / "here")
    assert not list(tmp_path.glob("*.json"))


# --- the programming interface --------------------------------------------------------------------


def test_an_error_of_the_description_is_not_retried(hub: Hub) -> None:
    hub.fail(faults.Status(503), "/api/models/")
    with pytest.raises(HfHubHTTPError):
        api_of(hub).model_info(REPO)
    assert len(hub.log) == 1


def test_an_error_of_the_tree_is_retried(hub: Hub, sleeps: list[float]) -> None:
    hub.fail(faults.Status(503), "/tree/", times=2)
    assert read(snapshot_download(REPO, endpoint=hub.endpoint, token=False)) == FILES
    assert sleeps == [1, 2]


def test_too_many_repositories_are_not_waited_for(hub: Hub) -> None:
    hub.fail(faults.Status(429, {"Retry-After": "1"}), "/repos/create")
    with pytest.raises(HfHubHTTPError) as refused:
        owner(hub).create_repo("alice/other")
    assert refused.value.response.status_code == 429
    assert list(hub.repos) == [REPO]


# --- uploads --------------------------------------------------------------------------------------


def push(hub: Hub, parent: str | None = None) -> CommitInfo:
    return owner(hub).create_commit(
        REPO, [add("new.safetensors", b"new" * 400)], commit_message="New", parent_commit=parent
    )


@pytest.mark.parametrize("step", ["preupload", "objects/batch", BLOB, "objects/verify"])
def test_an_error_before_the_commit_is_retried(hub: Hub, sleeps: list[float], step: str) -> None:
    hub.fail(faults.Status(503), step, times=2)
    push(hub)
    assert "new.safetensors" in hub.files(REPO)
    assert sleeps == [1, 2]
    assert hub.fsck(REPO) == ""


@pytest.mark.parametrize("fault", [faults.Reset(), faults.ResetUpload(after=100)])
def test_a_connection_reset_while_uploading_is_retried(
    hub: Hub, sleeps: list[float], fault: Fault
) -> None:
    hub.fail(fault, BLOB, method="PUT")
    push(hub)
    assert hub.files(REPO)["new.safetensors"] == b"new" * 400
    assert sleeps == [1]


def test_an_error_of_the_commit_is_not_retried(hub: Hub) -> None:
    head = hub.head(REPO)
    hub.fail(faults.Status(503), "/commit/")
    with pytest.raises(HfHubHTTPError):
        push(hub)
    assert hub.head(REPO) == head
    assert len(hub.log.of("POST", "/commit/")) == 1


def test_a_commit_whose_answer_is_lost_has_landed(hub: Hub) -> None:
    head = hub.head(REPO)
    hub.fail(faults.LostAnswer(), "/commit/")
    with pytest.raises(httpx2.ReadError):
        push(hub, parent=head)
    assert hub.files(REPO)["new.safetensors"] == b"new" * 400
    landed = hub.head(REPO)
    # The client finds nothing left to do by the hashes, and forgets the parent.
    assert push(hub, parent=head).oid == landed
    with pytest.raises(HfHubHTTPError) as refused:
        owner(hub).create_commit(
            REPO, [add("other", b"1")], commit_message="Other", parent_commit=head
        )
    assert refused.value.response.status_code == 412


def test_a_put_whose_answer_is_lost_is_sent_again(hub: Hub, sleeps: list[float]) -> None:
    hub.fail(faults.LostAnswer(), BLOB, method="PUT")
    push(hub)
    assert [put.received for put in hub.log.of("PUT")] == [1200, 1200]
    assert sleeps == [1]
