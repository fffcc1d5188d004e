"""Each ordinary mistake gets a line that says what is wrong, where, and what to do."""

import shutil
from pathlib import Path

import pytest

from tests.cli.results import refused
from tests.e2e.commands import digests, run_here
from tests.mistakes import MISTAKES, Mistake, furnish
from tests.test_docs import DOCS, load_script

make_mistakes = load_script(DOCS / "make_mistakes.py")
ALL = [mistake for group in MISTAKES.values() for mistake in group]


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mistakes")
    furnish(folder)
    return folder


@pytest.mark.parametrize("mistake", ALL, ids=lambda mistake: mistake.name)
def test_a_mistake_is_answered_by_what_where_and_what_to_do(
    mistake: Mistake,
    furnished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And leaves the inputs as they were, and no output."""
    folder = Path(shutil.copytree(furnished, tmp_path / "here"))
    monkeypatch.chdir(folder)
    mistake.prepare()
    before = digests(folder)
    with mistake.during():
        result = run_here(capsys, *mistake.arguments)
    assert refused(result, mistake.code, ".")
    message = result.err.splitlines()[-1]
    for part in (mistake.what, mistake.where, mistake.remedy):
        assert part in message, message
    assert digests(folder) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here"]
    assert make_mistakes.row(mistake, message) in make_mistakes.PAGE.read_text(encoding="utf-8")


def test_the_page_has_every_mistake_and_no_other() -> None:
    lines = make_mistakes.PAGE.read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.startswith("| ")]) == len(ALL) + len(MISTAKES)
