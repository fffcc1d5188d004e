"""The loopback Hub does for the real client what the Hub does."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    snapshot_download,
)
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.file_download import get_hf_file_metadata, hf_hub_url
from huggingface_hub.hf_api import RepoFile, RepoFolder

from tests.hub.client import FILES, REPO, WEIGHTS, add, api_of, owner, pull, read, write
from tests.hub.server import Hub
from tests.narrowing import present


def test_a_pushed_folder_comes_back(hub: Hub, tmp_path: Path) -> None:
    api = owner(hub)
    assert api.create_repo(REPO).repo_id == REPO
    commit = api.upload_folder(repo_id=REPO, folder_path=write(tmp_path / "pushed", FILES))
    assert commit.oid == hub.head(REPO)
    assert commit.repo_url.repo_id == REPO
    assert hub.files(REPO) == FILES
    pulled = snapshot_download(REPO, endpoint=hub.endpoint, token=False)
    assert read(pulled) == FILES
    assert hub.fsck(REPO) == ""


def test_the_clients_own_check_agrees(hub: Hub, tmp_path: Path) -> None:
    hub.create_repo(REPO, FILES)
    snapshot_download(REPO, endpoint=hub.endpoint, token=False, local_dir=tmp_path)
    checked = api_of(hub).verify_repo_checksums(REPO, local_dir=tmp_path)
    assert (checked.checked_count, checked.mismatches) == (4, [])
    assert (checked.missing_paths, checked.extra_paths) == ([], [])
    (tmp_path / "config.json").write_bytes(b"{ }")
    assert len(api_of(hub).verify_repo_checksums(REPO, local_dir=tmp_path).mismatches) == 1


def test_a_repository_is_sound_after_all_that_can_be_done_to_it(hub: Hub) -> None:
    api = owner(hub)
    api.create_repo(REPO)
    head = api.create_commit(
        REPO, [add("a/b/c", b"1"), add("a.bin", WEIGHTS)], commit_message="One"
    )
    api.create_tag(REPO, tag="v1", tag_message="the first")
    api.create_branch(REPO, branch="side/way")
    changes: list[CommitOperationAdd | CommitOperationCopy | CommitOperationDelete] = [
        CommitOperationDelete("a/b/"),
        CommitOperationCopy("a.bin", "a-b.bin"),
        add("a-b", b"2"),
    ]
    api.create_commit(REPO, changes, commit_message="Two\n\nmore lines", parent_commit=head.oid)
    proposed = api.create_commit(REPO, [add("a.b", b"3")], commit_message="Three", create_pr=True)
    api.merge_pull_request(REPO, present(proposed.pr_num))
    assert hub.files(REPO) == {"a-b": b"2", "a-b.bin": WEIGHTS, "a.b": b"3", "a.bin": WEIGHTS}
    assert hub.fsck(REPO) == ""
    assert git(hub, "log", "--format=%s") == ["Three (#1)", "Two", "One", "initial commit"]
    at_the_tag = git(hub, "ls-tree", "-rt", "--name-only", "v1")
    assert at_the_tag == [".gitattributes", "a.bin", "a", "a/b", "a/b/c"]


def git(hub: Hub, *words: str) -> list[str]:
    """The lines that `git` itself answers about the repository."""
    command: list[str | Path] = ["git", "--git-dir", hub.repos[REPO].folder, *words]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return run.stdout.splitlines()


def test_large_files_are_pointers_in_git_and_small_ones_are_not(hub: Hub) -> None:
    hub.create_repo(REPO, FILES)
    tree = {entry.path: entry for entry in api_of(hub).list_repo_tree(REPO, recursive=True)}
    weights, config, folder = tree["model.safetensors"], tree["config.json"], tree["deep/er"]
    assert isinstance(weights, RepoFile)
    assert isinstance(config, RepoFile)
    assert isinstance(folder, RepoFolder)
    stored = present(weights.lfs)
    assert stored.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert weights.size == stored.size == len(WEIGHTS)
    assert stored.pointer_size == 130
    assert config.lfs is None
    assert config.blob_id == hashlib.sha1(b"blob 3\0{}\n").hexdigest()
    assert folder.tree_id == hub.repos[REPO].git.entries(hub.head(REPO))[3].oid


def test_a_file_over_ten_mebibytes_is_large_whatever_its_name(hub: Hub) -> None:
    api = owner(hub)
    api.create_repo(REPO)
    data = bytes(10 * 1024 * 1024 + 1)
    api.create_commit(REPO, [add("notes.txt", data), add("empty.bin", b"")], commit_message="Add")
    files = [found for found in api.list_repo_tree(REPO) if isinstance(found, RepoFile)]
    sizes = {file.path: (file.size, file.lfs is not None) for file in files}
    assert sizes["notes.txt"] == (len(data), True)
    assert sizes["empty.bin"] == (0, False)
    assert pull(hub, "notes.txt") == data


def test_an_upload_in_parts_arrives_whole(hub: Hub) -> None:
    hub.settings.part_size = 20_000
    api = owner(hub)
    api.create_repo(REPO)
    api.create_commit(REPO, [add("model.safetensors", WEIGHTS)], commit_message="Add")
    assert [part.received for part in hub.log.of("PUT")] == [20_000, 20_000, 20_000, 5536]
    assert pull(hub) == WEIGHTS


def test_what_is_there_is_not_uploaded_again(hub: Hub) -> None:
    hub.create_repo(REPO, FILES)
    api, head = owner(hub), hub.head(REPO)
    again = api.create_commit(REPO, [add(*file) for file in FILES.items()], commit_message="Same")
    assert (again.oid, hub.head(REPO)) == (head, head)
    api.create_commit(REPO, [add("copy.safetensors", WEIGHTS)], commit_message="A copy")
    assert not hub.log.of("PUT")


def test_an_ignored_file_stays_at_home(hub: Hub) -> None:
    hub.create_repo(REPO, {".gitignore": b"*.tmp\n"})
    changes = [add("a.tmp", b"1"), add("a.txt", b"2")]
    owner(hub).create_commit(REPO, changes, commit_message="Add")
    assert sorted(hub.files(REPO)) == [".gitignore", "a.txt"]


def test_the_description_of_a_model(hub: Hub) -> None:
    card = b"---\nlicense: mit\ntags: [lora]\n---\n# An adapter\n"
    hub.create_repo(REPO, {**FILES, "README.md": card}, gated="auto")
    model = api_of(hub).model_info(REPO, files_metadata=True)
    assert (model.id, model.author, model.sha) == (REPO, "alice", hub.head(REPO))
    assert (model.private, model.gated, model.tags) == (False, "auto", ["lora"])
    assert present(model.card_data).license == "mit"
    files = present(model.siblings)
    weights = next(file for file in files if file.rfilename == "model.safetensors")
    assert (weights.size, present(weights.lfs).sha256) == (
        len(WEIGHTS),
        hashlib.sha256(WEIGHTS).hexdigest(),
    )
    assert present(api_of(hub).model_info(REPO).siblings)[-1].size is None
    assert api_of(hub).model_info(REPO, expand=["sha"]).siblings is None


def test_paths_by_name_without_those_unknown(hub: Hub) -> None:
    first = hub.create_repo(REPO, FILES)
    hub.commit(REPO, {"config.json": b"{ }\n"})
    asked = ["deep", "model.safetensors", "missing"]
    found = api_of(hub).get_paths_info(REPO, asked, expand=True)
    assert [entry.path for entry in found] == ["deep", "model.safetensors"]
    assert {present(entry.last_commit).oid for entry in found} == {first}
    assert api_of(hub).file_exists(REPO, "config.json")
    assert not api_of(hub).file_exists(REPO, "missing")


def test_listings_come_in_pages(hub: Hub) -> None:
    hub.settings.page_size = 2
    hub.create_repo(REPO, FILES)
    names = [entry.path for entry in api_of(hub).list_repo_tree(REPO, recursive=True)]
    assert names == [
        ".gitattributes",
        "config.json",
        "deep",
        "deep/er",
        "deep/er/notes.txt",
        "model.safetensors",
    ]
    assert len(hub.log.of("GET", "/tree/")) == 3
    assert [entry.path for entry in api_of(hub).list_repo_tree(REPO, "deep")] == ["deep/er"]
    titles = [commit.title for commit in api_of(hub).list_repo_commits(REPO)]
    assert titles == ["Add files", "initial commit"]


def test_refs_and_what_they_name(hub: Hub) -> None:
    first = hub.create_repo(REPO, FILES)
    api = owner(hub)
    api.create_tag(REPO, tag="v1", tag_message="the first")
    api.create_branch(REPO, branch="side/way")
    second = hub.commit(REPO, {"config.json": b"[]"}, branch="side/way", user="bob")
    pull_request = api.create_pull_request(REPO, "A proposal")
    refs = api.list_repo_refs(REPO, include_pull_requests=True)
    assert {ref.name: ref.target_commit for ref in refs.branches} == {
        "main": first,
        "side/way": second,
    }
    assert [(ref.ref, ref.target_commit) for ref in refs.tags] == [("refs/tags/v1", first)]
    assert [ref.ref for ref in present(refs.pull_requests)] == ["refs/pr/1"]
    assert pull_request.git_reference == "refs/pr/1"
    for revision in ("side/way", second, second[:8], "refs/heads/side/way"):
        assert pull(hub, "config.json", revision) == b"[]"
        assert api.model_info(REPO, revision=revision).sha == second
    assert api.list_repo_commits(REPO, revision="side/way")[0].authors == ["bob"]
    api.delete_tag(REPO, tag="v1")
    api.delete_branch(REPO, branch="side/way")
    assert [ref.name for ref in api.list_repo_refs(REPO).branches] == ["main"]
    assert hub.fsck(REPO) == ""


def test_a_pull_request_from_first_to_last(hub: Hub) -> None:
    base = hub.create_repo(REPO, FILES)
    api = owner(hub)
    draft = api.create_pull_request(REPO, "A proposal")
    assert draft.status == "draft"
    api.create_commit(REPO, [add("x", b"1")], commit_message="X", revision="refs/pr/1")
    assert hub.head(REPO) == base
    api.change_discussion_status(REPO, 1, "open")
    hub.commit(REPO, {"y": b"2"})
    api.merge_pull_request(REPO, 1)
    assert api.get_discussion_details(REPO, 1).status == "merged"
    assert {"x", "y"} <= set(hub.files(REPO))
    assert [found.num for found in api.get_repo_discussions(REPO)] == [1]


def test_an_outsider_may_propose_what_they_may_not_push(hub: Hub) -> None:
    hub.create_repo(REPO, FILES)
    proposed = owner(hub, "bob").create_commit(
        REPO, [add("x.safetensors", b"1")], commit_message="X", create_pr=True
    )
    assert hub.files(REPO) == FILES
    assert hub.files(REPO, present(proposed.pr_revision))["x.safetensors"] == b"1"


def test_a_small_file_is_answered_at_once_and_a_large_one_by_the_storage(hub: Hub) -> None:
    hub.create_repo(REPO, FILES)
    small, large = (
        get_hf_file_metadata(hf_hub_url(REPO, path, endpoint=hub.endpoint), token=False)
        for path in ("config.json", "model.safetensors")
    )
    assert (small.etag, small.size) == (hashlib.sha1(b"blob 3\0{}\n").hexdigest(), 3)
    assert (large.etag, large.size) == (hashlib.sha256(WEIGHTS).hexdigest(), len(WEIGHTS))
    assert small.commit_hash == large.commit_hash == hub.head(REPO)
    assert large.location.startswith(hub.storage_endpoint)
    assert large.xet_file_data is None


def test_a_token_stays_on_the_hub(hub: Hub) -> None:
    hub.create_repo(REPO, FILES, private=True)
    api = owner(hub)
    api.create_commit(REPO, [add("b.safetensors", b"1" * 600)], commit_message="Add")
    api.snapshot_download(REPO)
    assert len(hub.log.of(origin="storage")) == 3
    assert all("authorization" not in r.headers for r in hub.log.of(origin="storage"))
    assert all("authorization" in r.headers for r in hub.log.of(origin="hub"))


@pytest.mark.parametrize("setting", ["resolve_cache", "compress"])
def test_small_files_come_in_other_ways_too(hub: Hub, setting: str) -> None:
    setattr(hub.settings, setting, True)
    hub.create_repo(REPO, FILES)
    assert read(snapshot_download(REPO, endpoint=hub.endpoint, token=False)) == FILES


def test_a_second_pull_of_a_commit_asks_nothing(hub: Hub) -> None:
    commit = hub.create_repo(REPO, FILES)
    snapshot_download(REPO, revision=commit, endpoint=hub.endpoint, token=False)
    assert hub.log.sent > len(WEIGHTS)
    hub.log.clear()
    snapshot_download(REPO, revision=commit, endpoint=hub.endpoint, token=False)
    assert not hub.log


def test_a_fresh_environment_has_only_this_hub(hub: Hub, tmp_path: Path) -> None:
    token = hub.user("alice")
    program = "import huggingface_hub as h; print(h.whoami()['name'], h.constants.HF_HUB_CACHE)"
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=hub.environment(tmp_path, token),
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.split() == ["alice", str(tmp_path / "huggingface/hub")]
    assert [request.path for request in hub.log] == ["/api/whoami-v2"]


def test_an_endpoint_given_on_is_enough(only_by_argument: Hub) -> None:
    hub = only_by_argument
    hub.create_repo(REPO, FILES)
    with pytest.raises(LocalEntryNotFoundError, match="Connection refused"):
        snapshot_download(REPO, token=False)
    assert read(snapshot_download(REPO, endpoint=hub.endpoint, token=False)) == FILES
