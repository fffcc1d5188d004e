"""The loopback Hub refuses as the Hub does: by the exceptions of the real client."""

from collections.abc import Callable

import pytest
from huggingface_hub import CommitOperationDelete, ModelCard, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    BadRequestError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub.client import FILES, REPO, WEIGHTS, add, api_of, owner, pull
from tests.hub.server import Hub
from tests.hub.server.accounts import Role

CONFIG = "config.json"


def status(refused: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    code: int = refused.value.response.status_code
    return code


@pytest.mark.parametrize("private", [True, False], ids=["private", "missing"])
def test_what_a_stranger_may_not_see_is_not_there(hub: Hub, private: bool) -> None:
    if private:
        hub.create_repo(REPO, FILES, private=True)
    stranger = owner(hub, "mallory")
    with pytest.raises(RepositoryNotFoundError) as hidden:
        stranger.model_info(REPO)
    assert status(hidden) == 404
    with pytest.raises(RepositoryNotFoundError):
        stranger.hf_hub_download(REPO, CONFIG)
    with pytest.raises(HfHubHTTPError) as refused:
        api_of(hub).model_info(REPO)
    # The client looks at https addresses only when it turns this into RepositoryNotFoundError.
    assert (type(refused.value), status(refused)) == (HfHubHTTPError, 401)


def test_a_private_repository_is_open_to_its_organization(hub: Hub) -> None:
    hub.create_repo("lab/adapter", FILES, private=True)
    member = api_of(hub, hub.user("alice", "read", organizations=["lab"]))
    assert member.model_info("lab/adapter").private
    assert member.whoami()["orgs"][0]["name"] == "lab"


def test_a_token_that_nobody_has(hub: Hub) -> None:
    hub.create_repo(REPO, FILES)
    with pytest.raises(HfHubHTTPError, match="Invalid credentials") as refused:
        api_of(hub, "hf_nobody").model_info(REPO)
    assert (type(refused.value), status(refused)) == (HfHubHTTPError, 401)
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        api_of(hub, "hf_nobody").whoami()


@pytest.mark.parametrize(("name", "code"), [(None, 401), ("bob", 403)])
def test_a_gate_shuts_off_the_files_only(hub: Hub, name: str | None, code: int) -> None:
    hub.create_repo(REPO, FILES, gated="manual")
    api = api_of(hub) if name is None else owner(hub, name)
    assert api.model_info(REPO).gated == "manual"
    assert [entry.path for entry in api.list_repo_tree(REPO)][1] == CONFIG
    with pytest.raises(GatedRepoError) as refused:
        api.hf_hub_download(REPO, CONFIG)
    assert status(refused) == code


def test_a_gate_opens_to_the_owner_and_whoever_is_let_in(hub: Hub) -> None:
    hub.create_repo(REPO, FILES, gated="auto")
    hub.grant(REPO, "bob")
    for name in ("alice", "bob"):
        assert owner(hub, name).hf_hub_download(REPO, CONFIG)


def test_a_revision_or_file_that_is_not_there(hub: Hub) -> None:
    head = hub.create_repo(REPO, FILES)
    with pytest.raises(RevisionNotFoundError):
        api_of(hub).model_info(REPO, revision="nowhere")
    with pytest.raises(RevisionNotFoundError):
        snapshot_download(REPO, revision="0" * 40, endpoint=hub.endpoint, token=False)
    with pytest.raises(RemoteEntryNotFoundError) as refused:
        hf_hub_download(REPO, "nothing", endpoint=hub.endpoint, token=False)
    assert refused.value.response.headers["x-repo-commit"] == head
    with pytest.raises(RemoteEntryNotFoundError):
        list(api_of(hub).list_repo_tree(REPO, "nowhere"))


@pytest.mark.parametrize(("name", "role"), [("alice", "read"), ("mallory", "write")])
def test_writing_takes_a_right(hub: Hub, name: str, role: Role) -> None:
    hub.create_repo(REPO, FILES)
    api = api_of(hub, hub.user(name, role))
    head = hub.head(REPO)
    attempts: list[Callable[[], object]] = [
        lambda: api.create_commit(REPO, [add("x", b"1")], commit_message="X"),
        lambda: api.create_tag(REPO, tag="v1"),
        lambda: api.create_branch(REPO, branch="side"),
        lambda: api.update_repo_settings(REPO, private=True),
        lambda: api.create_repo("alice/other"),
        lambda: api.delete_repo(REPO),
    ]
    for attempt in attempts:
        with pytest.raises(HfHubHTTPError, match="required permissions") as refused:
            attempt()
        assert status(refused) == 403
    assert hub.head(REPO) == head
    assert list(hub.repos) == [REPO]


def test_what_exists_is_not_made_again(hub: Hub) -> None:
    api = owner(hub)
    api.create_repo(REPO)
    ways: dict[str, Callable[..., object]] = {
        "repository": lambda **how: api.create_repo(REPO, **how),
        "tag": lambda **how: api.create_tag(REPO, tag="v1", **how),
        "branch": lambda **how: api.create_branch(REPO, branch="main", **how),
    }
    for name, make in ways.items():
        if name == "tag":
            make()
        with pytest.raises(HfHubHTTPError) as refused:
            make()
        assert status(refused) == 409
        make(exist_ok=True)


def test_a_deleted_repository_is_gone(hub: Hub) -> None:
    api = owner(hub)
    api.create_repo(REPO)
    api.delete_repo(REPO)
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo(REPO)
    api.delete_repo(REPO, missing_ok=True)
    assert not api.repo_exists(REPO)


def test_a_repository_becomes_private_and_gated(hub: Hub) -> None:
    hub.create_repo(REPO, FILES)
    owner(hub).update_repo_settings(REPO, private=True, gated="auto")
    assert (hub.repos[REPO].private, hub.repos[REPO].gated) == (True, "auto")


def test_a_commit_on_a_branch_that_moved_is_refused(hub: Hub) -> None:
    before = hub.create_repo(REPO, FILES)
    after = hub.commit(REPO, {"theirs": b"1"})
    with pytest.raises(HfHubHTTPError) as refused:
        owner(hub).create_commit(
            REPO, [add("ours", b"1")], commit_message="Ours", parent_commit=before
        )
    assert status(refused) == 412
    assert hub.head(REPO) == after


def test_somebody_else_commits_in_between(hub: Hub) -> None:
    head = hub.create_repo(REPO, FILES)
    hub.before("/commit/", lambda: hub.commit(REPO, {"theirs": b"1"}, user="bob"))
    with pytest.raises(HfHubHTTPError) as refused:
        owner(hub).create_commit(
            REPO, [add("ours", b"1")], commit_message="Ours", parent_commit=head
        )
    assert status(refused) == 412
    assert "theirs" in hub.files(REPO)


def test_a_conflicting_proposal_is_not_merged(hub: Hub) -> None:
    hub.create_repo(REPO, FILES)
    api = owner(hub)
    api.create_commit(REPO, [add(CONFIG, b"1")], commit_message="One", create_pr=True)
    hub.commit(REPO, {CONFIG: b"2"})
    assert api.get_discussion_details(REPO, 1).conflicting_files == [CONFIG]
    with pytest.raises(HfHubHTTPError, match=CONFIG) as refused:
        api.merge_pull_request(REPO, 1)
    assert status(refused) == 409


@pytest.mark.parametrize("path", ["missing", "missing/"])
def test_what_is_not_there_cannot_be_deleted(hub: Hub, path: str) -> None:
    hub.create_repo(REPO, FILES)
    with pytest.raises(RemoteEntryNotFoundError, match="doesn't exist"):
        owner(hub).create_commit(REPO, [CommitOperationDelete(path)], commit_message="Delete")


def test_a_file_cannot_be_where_a_folder_is(hub: Hub) -> None:
    hub.create_repo(REPO, FILES)
    with pytest.raises(BadRequestError, match="deep"):
        owner(hub).create_commit(REPO, [add("deep", b"1")], commit_message="Deep")


def test_a_pointer_to_nothing_is_refused(hub: Hub) -> None:
    hub.create_repo(REPO, FILES)
    change = add("new.safetensors", WEIGHTS[:600])
    change._upload_mode, change._is_uploaded = "lfs", True  # a client that forgets the upload
    change._should_ignore = False
    with pytest.raises(BadRequestError, match="LFS pointer"):
        owner(hub).create_commit(REPO, [change], commit_message="Nothing")


@pytest.mark.parametrize("name", ["a..b", "a b", "main/sub", "x.lock"])
def test_a_ref_that_git_would_not_take_is_refused(hub: Hub, name: str) -> None:
    hub.create_repo(REPO, FILES)
    with pytest.raises(BadRequestError, match="reference name"):
        owner(hub).create_branch(REPO, branch=name)


CARDS = {
    "- a\n- list": "mapping",
    "license: 5": "license",
    "tags: lora": "tags",
    "tags: [1]": "tags",
    "base_model: {a: b}": "base_model",
    "base_model_relation: child": "base_model_relation",
    "license: [": "does not parse",
}


@pytest.mark.parametrize("front", CARDS, ids=list(CARDS.values()))
def test_a_card_with_wrong_metadata_is_refused(hub: Hub, front: str) -> None:
    hub.create_repo(REPO, FILES)
    card = f"---\n{front}\n---\n# An adapter\n".encode()
    with pytest.raises(ValueError, match=CARDS[front]):
        owner(hub).create_commit(REPO, [add("README.md", card)], commit_message="Card")
    assert "README.md" not in hub.files(REPO)


def test_a_card_in_order_is_taken(hub: Hub) -> None:
    hub.create_repo(REPO, FILES)
    front = "license: mit\ntags: [lora]\nbase_model: [a/b]\nbase_model_relation: adapter"
    card = f"---\n{front}\n---\n# An adapter\n"
    owner(hub).create_commit(REPO, [add("README.md", card.encode())], commit_message="Card")
    assert ModelCard.load(pull_path(hub)).data.base_model == ["a/b"]


def pull_path(hub: Hub) -> str:
    return hf_hub_download(REPO, "README.md", endpoint=hub.endpoint, token=False)


def test_a_card_without_metadata_is_taken_with_a_warning(hub: Hub) -> None:
    hub.create_repo(REPO, FILES)
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        owner(hub).create_commit(REPO, [add("README.md", b"# Hm\n")], commit_message="Card")
    assert pull(hub, "README.md") == b"# Hm\n"


def test_there_is_no_xet(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.create_repo(REPO, FILES)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    with pytest.raises(ConnectionError):
        owner(hub).create_commit(REPO, [add("x.safetensors", WEIGHTS[:9])], commit_message="X")
    assert hub.log[-1].status == 404
    assert "xet-write-token" in hub.log[-1].path
    assert pull(hub) == WEIGHTS  # which is not in Xet


def test_offline_nothing_is_asked_and_what_is_here_is_found(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.create_repo(REPO, FILES)
    pulled = snapshot_download(REPO, endpoint=hub.endpoint, token=False)
    other = hub.create_repo("bob/adapter", FILES)
    hub.log.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert snapshot_download(REPO, endpoint=hub.endpoint, token=False) == pulled
    assert snapshot_download(REPO, revision=commit, endpoint=hub.endpoint, token=False) == pulled
    with pytest.raises(LocalEntryNotFoundError):
        snapshot_download("bob/adapter", revision=other, endpoint=hub.endpoint, token=False)
    assert not hub.log
