"""Faults strike whom they are for; contents come in parts; clients may leave."""

import hashlib
import socket
import time
from pathlib import Path

import httpx2
import pytest
from huggingface_hub.errors import HfHubHTTPError

from tests.hub.client import FILES, REPO, WEIGHTS, api_of, owner, pull
from tests.hub.server import Hub, faults
from tests.hub.server.serving import Server

SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
BLOB = f"{REPO}/{SHA256}"  # the address of the weights in the storage


@pytest.fixture(autouse=True)
def _adapter(hub: Hub) -> None:
    hub.create_repo(REPO, FILES)


def test_a_fault_strikes_the_requests_it_is_for(hub: Hub) -> None:
    rule = hub.fail(faults.Status(500), "/refs", method="GET", skip=1, times=2)
    api, seen = api_of(hub), []
    for _ in range(5):
        try:
            api.list_repo_refs(REPO)
        except HfHubHTTPError as error:
            seen.append(error.response.status_code)
        else:
            seen.append(200)
    assert seen == [200, 500, 500, 200, 200]
    assert rule.hits == 2
    assert [request.faults for request in hub.log] == [[], ["Status"], ["Status"], [], []]


def test_faults_add_up(hub: Hub, sleeps: list[float]) -> None:
    hub.fail(faults.Flip(offset=0), BLOB, method="GET", times=None)
    hub.fail(faults.Cut(after=10), BLOB, method="GET")
    assert pull(hub)[:2] == bytes([WEIGHTS[0] ^ 1, WEIGHTS[1]])
    assert [request.faults for request in hub.log.of("GET")] == [["Flip", "Cut"], ["Flip"]]


def test_an_action_before_a_request_may_use_the_hub_itself(hub: Hub) -> None:
    hub.before("/refs", lambda: owner(hub).create_tag(REPO, tag="v1"))
    assert [tag.name for tag in api_of(hub).list_repo_refs(REPO).tags] == ["v1"]


@pytest.mark.parametrize(
    ("asked", "status", "answered"),
    [
        ("bytes=10-19", 206, slice(10, 20)),
        ("bytes=65530-", 206, slice(65530, None)),
        ("bytes=-5", 206, slice(-5, None)),
        ("bytes=0-99999999", 206, slice(None)),
        ("bytes=65536-", 416, None),
        ("lines=1-2", 200, slice(None)),
    ],
)
@pytest.mark.parametrize("path", ["model.safetensors", "plain"])
def test_parts_of_a_file(
    hub: Hub, path: str, asked: str, status: int, answered: slice | None
) -> None:
    hub.commit(REPO, {"plain": WEIGHTS})
    url = f"{hub.endpoint}/{REPO}/resolve/main/{path}"
    answer = httpx2.get(url, headers={"Range": asked}, follow_redirects=True)
    assert answer.status_code == status
    if answered is None:
        assert answer.headers["content-range"] == "bytes */65536"
        return
    assert answer.content == WEIGHTS[answered]
    if status == 206:
        first = range(len(WEIGHTS))[answered][0]
        expected = f"bytes {first}-{first + len(answer.content) - 1}/65536"
        assert answer.headers["content-range"] == expected


def test_the_storage_takes_no_token_and_no_forged_address(hub: Hub) -> None:
    address = f"{hub.storage_endpoint}/{REPO}/{SHA256}"
    assert httpx2.get(address).status_code == 403
    assert httpx2.get(address + "?Signature=0").status_code == 403
    url = f"{hub.endpoint}/{REPO}/resolve/main/model.safetensors"
    signed = httpx2.get(url).headers["location"]
    assert httpx2.get(signed).content == WEIGHTS
    assert httpx2.get(signed, headers={"Authorization": "Bearer x"}).status_code == 400
    assert httpx2.put(signed, content=b"other").status_code == 403


def test_a_client_that_leaves_is_no_fault_of_the_server(hub: Hub) -> None:
    hub.fail(faults.Slow(bytes_per_second=1000), BLOB)
    url = f"{hub.endpoint}/{REPO}/resolve/main/model.safetensors"
    with httpx2.stream("GET", url, follow_redirects=True) as answer:
        assert next(answer.iter_raw(10))
    address = ("127.0.0.1", int(hub.storage_endpoint.rpartition(":")[2]))
    with socket.create_connection(address) as client:
        path = hub.signer.sign("PUT", f"/{REPO}/{SHA256}")
        client.sendall(f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1".encode())
        while not hub.log.of("PUT"):
            time.sleep(0.01)
    assert pull(hub) == WEIGHTS  # by now both have been noticed
    assert hub.log.of("GET", BLOB)[0].sent < len(WEIGHTS)
    assert not hub.errors


def test_a_fault_of_the_server_is_seen_by_the_test(hub: Hub) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    hub.before("/refs", fail)
    with pytest.raises(HfHubHTTPError) as refused:
        api_of(hub).list_repo_refs(REPO)
    assert refused.value.response.status_code == 500
    assert [type(error) for error in hub.errors] == [ZeroDivisionError]
    hub.errors.clear()


def test_the_log_counts_what_went_each_way(hub: Hub) -> None:
    pull(hub)
    blob = hub.log.of("GET", BLOB, origin="storage")
    assert [(r.status, r.sent, r.received) for r in blob] == [(200, len(WEIGHTS), 0)]
    assert hub.log.sent == len(WEIGHTS)  # the rest was asked for by HEAD
    body = b'{"content": "", "repoType": "model"}'
    httpx2.post(f"{hub.endpoint}/api/validate-yaml?why=not", content=body)
    checked = hub.log[-1]
    assert (checked.received, checked.query) == (len(body), {"why": "not"})
    assert repr(hub.log).endswith("hub: POST /api/validate-yaml -> 200")
    hub.log.clear()
    assert not hub.log


def test_a_test_begins_with_an_empty_hub(hub: Hub, server: Server, tmp_path: Path) -> None:
    other = server.fresh(tmp_path)
    assert (other.endpoint, other.repos, len(other.log)) == (hub.endpoint, {}, 0)
    with pytest.raises(HfHubHTTPError):
        api_of(hub).model_info(REPO)
    assert [len(hub.log), len(other.log)] == [0, 1]
