"""`hf://` names where an adapter or a base is named: what is fetched, and that it is what is listed."""

import pytest

import loratools
from tests.e2e.commands import FIXTURES, PLAIN, SHARDED, SINGLE


def folder(path):
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.fixture
def stories(hub):
    hub.create_repo("ann/stories", folder(SHARDED))
    hub.create_repo("ann/plain", folder(PLAIN))
    return hub


def test_a_merge_of_names_is_that_of_the_files(stories, tmp_path):
    here = loratools.merge(SHARDED, PLAIN, output=tmp_path / "here")
    there = loratools.merge("hf://ann/stories", "hf://ann/plain", output=tmp_path / "there")
    assert folder(tmp_path / "here") == folder(tmp_path / "there")
    stories.log.clear()
    loratools.merge("hf://ann/stories", "hf://ann/plain", output=None)
    assert [request.path for request in stories.log] == [
        "/api/models/ann/stories",
        "/api/models/ann/plain",
    ]
