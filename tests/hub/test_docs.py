"""The pages about the Hub, run against the one on loopback; and so is the script of a release."""

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

import loratools
from loratools import PushOptions
from loratools.cli import cli
from tests import test_docs as docs
from tests.hub.client import api_of
from tests.hub.server import Hub

HOW_TO = docs.DOCS / "how-to"
PAGES = sorted(docs.ON_THE_HUB)


@pytest.fixture
def workplace(
    hub: Hub, fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: str
) -> Path:
    """A folder with the fixtures, and a Hub as the pages say it is, with ann's token."""
    (tmp_path / "fixtures").symlink_to(fixtures.resolve(), target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", programs)
    monkeypatch.setenv("HF_TOKEN", hub.user("ann"))
    about = {"README.md": b"---\nlicense: mit\n---\n# A tale\n"}
    hub.create_repo("ann/stories260k", {**stored(fixtures / "stories260k"), **about})
    files = {**stored(fixtures / "adapters" / "combine-r8"), **about}
    config = json.loads(files["adapter_config.json"])
    config["base_model_name_or_path"] = "ann/stories260k"
    files["adapter_config.json"] = f"{json.dumps(config, indent=2)}\n".encode()
    commit = hub.create_repo("ben/tales", files)
    api_of(hub, hub.user("ben")).create_tag("ben/tales", tag="v1", revision=commit)
    return tmp_path


def stored(folder: Path) -> dict[str, bytes]:
    """What is published of a fixture."""
    ours = {"SOURCE.json", "expected.json"}
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in ours}


# --- pages ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("page", PAGES)
def test_examples_print_what_the_page_shows(page: str) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in docs.blocks(page):
        if block.language == "console":
            docs.run_console(block, page)
        elif block.language == "python":
            with contextlib.redirect_stdout(io.StringIO()):
                docs.run_python(block, page, names)


# --- the release ---------------------------------------------------------------------------------


def release(version: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", HOW_TO / "release.sh", "ann", version],
        env={**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.usefixtures("workplace")
def test_a_release_publishes_what_was_made_and_a_second_one_changes_nothing(hub: Hub) -> None:
    done = release("v1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("released: hf://ann/tales@v1 is what was made here\n")
    files = hub.files("ann/tales", "v1")
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= files.keys()
    locked = json.loads(Path("loratools.lock").read_text())["repositories"]
    assert {repo: entry["commit"] for repo, entry in locked.items()} == {
        repo: hub.head(repo) for repo in ("ann/stories260k", "ann/tales-r4", "ann/tales-r8")
    }
    hub.log.clear()
    assert release("v1").returncode == 0
    assert not [*hub.log.of("POST", "/commit/")]


@pytest.mark.usefixtures("workplace")
def test_a_release_fails_where_the_hub_keeps_something_else(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert release("v1").returncode == 0
    changed = {"model.safetensors": b"another", "config.json": b"{}\n"}
    hub.commit("ann/tales", changed, user="mallory")
    done = release("v1")
    assert done.returncode == 1
    assert "Error: hf://ann/tales: the tag v1 is there already, at " in done.stderr


@pytest.mark.usefixtures("workplace")
def test_a_release_fails_where_an_input_is_not_what_is_locked(hub: Hub) -> None:
    assert release("v1").returncode == 0
    lock = Path("loratools.lock")
    text = lock.read_text()
    digest = json.loads(text)["repositories"]["ann/tales-r8"]["files"]["adapter_model.safetensors"]
    lock.write_text(text.replace(digest, "0" * 64))
    done = release("v2")
    assert done.returncode == 1
    error = json.loads(done.stderr)
    assert error["file"].startswith("hf://ann/tales-r8@")
    assert re.match(rf"{error['file']}: other bytes than in .*loratools.lock", error["message"])
    assert not done.stdout.endswith("made here\n")


def test_the_workflow_uses_options_that_there_are() -> None:
    workflow = yaml.safe_load((HOW_TO / "release.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    scripts = "".join(step.get("run", "") + "\n" for step in steps)
    used = loratools_commands(scripts)
    assert {name for name, _ in used} == {"pull", "combine", "merge", "push"}
    assert_options_exist(used)
    tokens = [step["name"] for step in steps if "HF_TOKEN" in step.get("env", {})]
    assert all("loratools pu" in step["run"] for step in steps if step.get("name") in tokens)


def test_the_script_and_the_workflow_make_the_model_in_the_same_way() -> None:
    script = loratools_commands((HOW_TO / "release.sh").read_text())
    workflow = loratools_commands(
        "".join(
            step.get("run", "")
            for step in yaml.safe_load((HOW_TO / "release.yml").read_text())["jobs"]["release"][
                "steps"
            ]
        )
    )
    assert_options_exist(script)

    def options(commands: list[tuple[str, list[str]]], name: str) -> list[str]:
        (words,) = (words for verb, words in commands if verb == name)
        return [word for word in words if word.startswith("-") or word.isdecimal()]

    for name in ("combine", "merge"):
        assert options(script, name) == options(workflow, name)


def loratools_commands(text: str) -> list[tuple[str, list[str]]]:
    """The verb and the arguments of each loratools command in a script."""
    lines = text.replace("\\\n", " ").splitlines()
    found = [re.search(r"(?:^|\s)loratools ([a-z-]+) ([^|>)]*)", line) for line in lines]
    return [
        (match[1], shlex.split(match[2], comments=True))
        for line, match in zip(lines, found, strict=True)
        if match and not line.lstrip().startswith("#")
    ]


def assert_options_exist(commands: list[tuple[str, list[str]]]) -> None:
    for name, words in commands:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None, name
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known


# --- JSON ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("workplace")
def test_fields_of_pull_json_are_the_documented_ones() -> None:
    pulled = [
        loratools.pull("ben/tales", lock="lock"),
        loratools.pull("ben/tales", include_base=True, output="out"),
    ]
    docs.assert_documented([found.to_json() for found in pulled], "pull --json")


@pytest.mark.usefixtures("workplace")
def test_fields_of_push_json_are_the_documented_ones(fixtures: Path) -> None:
    folder = Path("mine")
    folder.mkdir()
    for name, data in stored(fixtures / "adapters" / "combine-r4").items():
        (folder / name).write_bytes(data)
    (folder / ".hidden").touch()
    base = "ann/stories260k"
    reports = [
        loratools.push(folder, "ann/mine", PushOptions(base=base, create=True, dry_run=True)),
        loratools.push(folder, "ann/mine", PushOptions(base=base, create=True, tag="v1")),
        loratools.push(folder, "ben/tales", PushOptions(base=base, proposes=True)),
    ]
    docs.assert_documented([report.to_json() for report in reports], "push --json")
