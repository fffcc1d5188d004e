"""What a name on the Hub says."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import loratools
from loratools.errors import HubError, LoratoolsError
from loratools.hub.answers import files_of
from loratools.hub.names import HubName, check_path, is_commit, is_hub_name
from tests.e2e.commands import PLAIN, run_apart

WORDS = st.from_regex(r"[a-zA-Z0-9]{1,9}([-_.][a-zA-Z0-9]{1,9})?", fullmatch=True)


@given(
    owner=WORDS,
    name=WORDS.filter(lambda word: not word.endswith(".git")),
    revision=st.none() | st.lists(WORDS, min_size=1, max_size=3).map("/".join),
    path=st.lists(WORDS, max_size=3).map("/".join),
)
def test_a_name_reads_back_as_it_was_written(
    owner: str, name: str, revision: str | None, path: str
) -> None:
    found = HubName(f"{owner}/{name}", revision, path)
    assert HubName.parse(str(found)) == found
    assert HubName.parse(Path(str(found))) == found, "a Path makes one slash of two"


@pytest.mark.parametrize("revision", ["..%2F..%2Fx", "%2Fetc", "a%2F..%2Fb", "a%00"])
def test_a_revision_stays_in_its_folder_too(revision: str) -> None:
    with pytest.raises(HubError, match="not a plain relative path"):
        HubName.parse(f"hf://ann/plain@{revision}")


def test_revisions_of_pull_requests_need_no_quoting() -> None:
    found = HubName.parse("hf://ann/plain@refs/pr/7/folder/file.safetensors")
    assert found == HubName("ann/plain", "refs/pr/7", "folder/file.safetensors")


@pytest.mark.parametrize(
    "name",
    ["hf://", "hf://datasets/ann/plain", "hf://ann/plain@", "hf://ann/pl ain"],
)
def test_other_forms_are_refused(name: str) -> None:
    with pytest.raises(HubError, match="not of the form"):
        HubName.parse(name)


@pytest.mark.parametrize("path", ["/ann/plain", "./ann/plain", "../ann/plain", "~/plain"])
def test_a_path_on_this_disk_is_no_name_on_the_hub(path: str) -> None:
    """The Hub's own parser leaves a slash out, so that /ann/plain would be published."""
    with pytest.raises(HubError, match="a path, and not a name on the Hub"):
        HubName.parse(path)


@pytest.mark.parametrize(
    ("page", "meant"),
    [
        ("ben/tales/tree/main", "hf://ben/tales"),
        ("ben/tales/tree/main/french", "hf://ben/tales/french"),
        ("ben/tales/blob/main/x.safetensors", "hf://ben/tales/x.safetensors"),
        ("ben/tales/resolve/v1/a/x.safetensors", "hf://ben/tales@v1/a/x.safetensors"),
        ("ben/tales/tree/refs/pr/3", "hf://ben/tales@refs/pr/3"),
    ],
)
def test_the_path_of_a_page_is_answered_by_the_name_of_what_it_shows(page: str, meant: str) -> None:
    for name in (f"hf://{page}", f"https://huggingface.co/{page}", page):
        with pytest.raises(LoratoolsError, match=rf"did you mean {re.escape(meant)}(\?| on)"):
            loratools.open_adapter(name)
    HubName.parse(meant)


def test_a_folder_that_is_called_like_a_page_is_named_with_a_revision() -> None:
    found = HubName.parse("hf://ben/tales@main/tree/oak")
    assert found == HubName("ben/tales", "main", "tree/oak")
    assert HubName.parse("hf://ben/tales/trees/oak").path == "trees/oak"


@pytest.mark.parametrize(
    "path", ["../x", "a/../../x", "/etc/x", "a\\b", "C:x", "a//b", "a/./b", "x\0"]
)
def test_a_path_stays_in_its_folder(path: str) -> None:
    with pytest.raises(HubError, match="not a plain relative path"):
        check_path(path, "hf://ann/plain")


@pytest.mark.skipif(os.name == "nt", reason="it cannot store them")
@pytest.mark.parametrize("path", ["C:x", 'a "b"?.png', "<s0><s1>.png", "a*|b"])
def test_a_listing_may_have_names_that_other_systems_cannot_store(path: str) -> None:
    """A repository with images that are called by what they show is not refused for them."""
    entry = {"type": "file", "path": path, "size": 5, "oid": 40 * "a"}
    assert [file.path for file in files_of([entry], "here")] == [path]


@pytest.mark.parametrize("path", ["a\u200cb", "\U0001f469\u200d\U0001f680"])
def test_joined_letters_and_emoji_are_names(path: str) -> None:
    check_path(path, "hf://ann/plain")


@pytest.mark.parametrize("name", ["hf", "./hf://a/b", "hf:a", "https://x/y", "a/hf://b"])
def test_other_names_are_paths(name: str) -> None:
    assert not is_hub_name(name)


def test_only_a_whole_lowercase_hash_is_a_commit() -> None:
    assert is_commit("0" * 40)
    assert not any(map(is_commit, ("0" * 39, "0" * 41, "A" * 40, "main", None)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("HF_ENDPOINT", value) for value in ("", "hub.co", "http://", "ftp://hub.co")),
        *(("HF_ENDPOINT", value) for value in ("http://[", "http://a:b:c", "http://a:99999")),
        *(("HF_ENDPOINT", value) for value in ("http://a\nb", "http://\u202ea", "http://ann:x@")),
        *(("HF_HUB_ETAG_TIMEOUT", value) for value in ("", "x", "-1", "1.5")),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "never"),
    ],
)
def test_variables_without_a_meaning_are_named(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(HubError, match=f"^{name}: not a"):
        HubName.parse("hf://ann/plain")


@pytest.mark.parametrize(
    "command",
    [
        ["pull", "ann/plain"],
        ["inspect", "hf://ann/plain"],
        ["merge", "hf://ann/base", PLAIN, "-o", "out"],
        ["push", PLAIN, "ann/plain"],
    ],
    ids=lambda command: command[0],
)
def test_the_client_is_not_imported_under_a_variable_without_a_meaning(
    command: list[str | Path], tmp_path: Path
) -> None:
    """It reads them when it is imported, and fails."""
    environment = {"HF_ENDPOINT": "http://[", "HOME": str(tmp_path)}
    result = run_apart(*command, env=environment)
    assert result.code == 1
    assert result.err == "Error: HF_ENDPOINT: not an address such as https://huggingface.co\n"


@pytest.mark.parametrize(
    "part", ["a\u202eb", "a\nb", "a\x9bb", "a\u2028", "a\ud800", "x" * 256, "é" * 128]
)
def test_a_path_can_be_seen_and_fits_on_a_disk(part: str) -> None:
    for path in (part, f"a/{part}", f"{part}/a"):
        with pytest.raises(HubError):
            check_path(path, "hf://ann/plain")
    with pytest.raises(HubError, match="too long"):
        check_path("/".join(["abc"] * 600), "hf://ann/plain")
    check_path("x" * 255, "hf://ann/plain")
