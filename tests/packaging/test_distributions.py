"""The wheel and the source distribution have the files that belong in them, and no other."""

import contextlib
import re
import subprocess
import tarfile
import tomllib
import zipfile
from email import message_from_string
from email.message import Message
from pathlib import Path, PurePosixPath

import pytest

from tests.oracles import oracle

ROOT = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

build = oracle("hatchling.build")
oracle("hatch_fancy_pypi_readme")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    with contextlib.chdir(ROOT):
        return zipfile.ZipFile(folder / build.build_wheel(str(folder)))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the files in the source distribution, without its folder's."""
    folder = tmp_path_factory.mktemp("sdist")
    with contextlib.chdir(ROOT), tarfile.open(folder / build.build_sdist(str(folder))) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return message_from_string(wheel.read(name).decode())


def project_files() -> set[str]:
    """The files of the project in git, and new ones beside them that git does not ignore."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing says which files are the project's")
    places = {name.partition("/")[0] for name in git("--cached")}
    names = git("--cached", "--others", "--exclude-standard", "--", *places)
    return {name for name in names if (ROOT / name).exists()}


def git(*arguments: str) -> list[str]:
    command = ["git", "ls-files", "-z", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    return done.stdout.decode().rstrip("\0").split("\0")


def test_wheel_has_the_package_and_its_metadata_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    beside = {name for name in names if not name.startswith("loratools/")}
    assert {name.partition(".dist-info/")[2] for name in beside} == {
        "METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE",
    }  # fmt: skip
    assert names - beside == {n for n in project_files() if n.startswith("loratools/")}


def test_package_has_code_and_data_and_no_strays(wheel: zipfile.ZipFile) -> None:
    files = [PurePosixPath(name) for name in wheel.namelist() if name.startswith("loratools/")]
    others = [file for file in files if file.suffix != ".py"]
    assert {"__init__.pyi", "py.typed"} <= {file.name for file in others}
    data = {str(file.relative_to("loratools").parent / f"*{file.suffix}") for file in others}
    assert data == {
        "*.pyi", "*.typed", "names/*.json", "names/*.txt", "names/aliases/*.txt",
        "publishing/card/*.jinja",
    }  # fmt: skip


def test_sdist_has_the_project_and_nothing_else(sdist: set[str]) -> None:
    assert sdist == project_files() | {"PKG-INFO"}


def test_readme_of_the_package_index_has_no_links_to_files(metadata: Message) -> None:
    text = metadata.get_payload()
    assert isinstance(text, str)
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert links
    assert [link for link in links if not link.startswith("https://")] == []
    # What the links are on is still there.
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.sub(r"\[([^\]]+)\]\((?!https)[^)]+\)", r"\1", readme).strip() == text.strip()


def test_versions_of_python_are_the_required_one_and_later_ones(metadata: Message) -> None:
    listed = re.findall(r"Python :: 3\.(\d+)$", "\n".join(metadata.get_all("Classifier", [])), re.M)
    versions = [int(minor) for minor in listed]
    assert metadata["Requires-Python"] == f">=3.{versions[0]}"
    assert versions == [*range(versions[0], versions[0] + len(versions))]
    *others, last = (f"3.{minor}" for minor in versions)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"Tested on Linux, with Python {', '.join(others)} and {last}." in readme


def test_classifiers_name_only_the_system_that_is_tested(metadata: Message) -> None:
    classifiers = metadata.get_all("Classifier", [])
    systems = [name for name in classifiers if name.startswith("Operating System")]
    assert systems == ["Operating System :: POSIX :: Linux"]
    assert "Tested on Linux" in (ROOT / "README.md").read_text(encoding="utf-8")
