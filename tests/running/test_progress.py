"""Progress is told by every verb that takes long, and a callback can stop it."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import loratools
from loratools.running.parallel import threads
from loratools.running.progress import shows_progress
from tests.e2e.commands import PLAIN, SINGLE, SMALL
from tests.verbs import own


def extracted(output: Path, progress: Any) -> object:
    tuned = output.parent.parent / "tuned"
    loratools.merge(SINGLE, PLAIN, output=tuned, overwrite=True)
    return loratools.svd_extract(tuned, SINGLE, rank=1, output=output, progress=progress)


#: Each verb that can take long, with an output at a path.
VERBS: dict[str, Callable[[Path, Any], object]] = {
    "combine": lambda out, p: loratools.combine([PLAIN, SMALL], output=out, progress=p),
    "convert": lambda out, p: loratools.convert(PLAIN, to="mlx", output=out, progress=p),
    "inspect": lambda out, p: loratools.inspect(PLAIN, spectrum=True, progress=p),
    "merge": lambda out, p: loratools.merge(SINGLE, PLAIN, output=out, progress=p),
    "rescale": lambda out, p: loratools.rescale(PLAIN, fold=True, output=out, progress=p),
    "resize": lambda out, p: loratools.resize(PLAIN, rank=2, output=out, progress=p),
    "svd_extract": extracted,
    "swap": lambda out, p: loratools.swap(own(SINGLE, out), PLAIN, progress=p),
}


def new(folder: Path) -> Path:
    (folder / "new").mkdir(exist_ok=True)
    return folder / "new"


class EnoughError(Exception):
    """What a callback raises to stop a verb."""


def test_every_verb_that_computes_takes_a_callback() -> None:
    takers = {
        name
        for name in loratools.__all__
        if "progress" in getattr(getattr(loratools, name), "__annotations__", {})
        and inspect.isfunction(getattr(loratools, name))
    }
    assert takers == {*VERBS, "pull"}


@pytest.mark.parametrize("verb", VERBS)
def test_progress_ends_at_the_whole_and_never_goes_back(verb: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    VERBS[verb](new(tmp_path) / "out", lambda done, total: seen.append((done, total)))
    assert len(seen) > 1
    assert seen == sorted(seen)
    assert all(done <= total for done, total in seen)
    assert seen[-1][0] == seen[-1][1] > 0


@pytest.mark.parametrize("verb", VERBS)
def test_what_a_callback_raises_stops_the_verb_and_leaves_no_output(
    verb: str, tmp_path: Path
) -> None:
    def stop(done: int, total: int) -> None:
        raise EnoughError

    with pytest.raises(EnoughError):
        VERBS[verb](new(tmp_path) / "out", stop)
    if verb != "swap":  # its output is the model itself, which stays
        assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("verb", VERBS)
def test_true_shows_a_bar_on_stderr(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for progress, is_shown in ((True, True), (False, False)):
        VERBS[verb](new(tmp_path) / str(progress), progress)
        out, err = capsys.readouterr()
        assert out == ""
        assert err.endswith("\r") is is_shown, "the bar was there, and is gone"
        assert bool(err) is is_shown


def test_progress_is_told_while_a_call_is_waited_for() -> None:
    """A callback may raise to stop a verb, and so it is asked during a long call too."""
    import threading

    ended, calls = threading.Event(), []

    def progress(done: int, total: int) -> None:
        calls.append((done, total))
        if len(calls) == 3:
            ended.set()

    with threads(1, progress) as each:
        assert list(each(ended.wait, [60])) == [True]
    assert calls[:3] == [(0, 1)] * 3


def test_help_of_a_verb_is_its_own() -> None:
    @shows_progress("B")
    def verb(one: int, *, progress: bool | None = None) -> int:
        """Do it."""
        return one

    assert str(inspect.signature(verb)).startswith("(one: int, *, progress")
    assert (verb.__name__, verb.__doc__) == ("verb", "Do it.")
    assert verb(1, progress=False) == 1
