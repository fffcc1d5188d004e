"""Progress is told by every verb that takes long, never goes back, and can stop the verb."""

import inspect
import re
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import loratools
from loratools import WriteOptions
from loratools.cli import verbs
from loratools.registry import names
from loratools.running.parallel import threads
from loratools.running.progress import Progress, bar, shows_progress
from loratools.running.share import Span
from loratools.swapping.journal import Journal
from tests.e2e.commands import FIXTURES, PLAIN, SINGLE, SMALL
from tests.verbs import own

DORA, BIASES = FIXTURES / "adapters/dora", FIXTURES / "adapters/gpt2-bias-all"


def tuned(output: Path) -> Path:
    """A model that was tuned from the base of all cases, beside the folder of the output."""
    folder = output.parent.parent / "tuned"
    if not folder.exists():
        loratools.merge(SINGLE, PLAIN, output=folder)
    return folder


def overlay(output: Path) -> Path:
    folder = output.parent.parent / "overlay"
    loratools.merge(SINGLE, PLAIN, output=folder, write=WriteOptions(only_changed=True))
    return folder


def swapped(output: Path, adapter: Path = PLAIN) -> Path:
    model = own(SINGLE, output)
    loratools.swap(model, adapter)
    return model


def interrupted(output: Path) -> Path:
    """A model in which a swap that was decided has stopped."""
    model = own(SINGLE, output)
    with pytest.MonkeyPatch.context() as patch, suppress(EnoughError):
        patch.setattr(Journal, "complete", enough)
        loratools.swap(model, PLAIN)
    return model


def extracted(output: Path | None, beside: Path, progress: Any, **options: Any) -> object:
    return loratools.svd_extract(
        tuned(beside), SINGLE, output=output, progress=progress, **{"rank": 1, **options}
    )


#: Runs of each verb that can take long, with an output at a path, if it has any.
RUNS: dict[str, dict[str, Callable[[Path, Any], object]]] = {
    "combine": {
        "exact": lambda out, p: loratools.combine([PLAIN, SMALL], output=out, progress=p),
        "rank": lambda out, p: loratools.combine([PLAIN, SMALL], rank=2, output=out, progress=p),
        "full rank": lambda out, p: loratools.combine(
            [PLAIN, SMALL], method="ties", energy=0.5, output=out, progress=p
        ),
        "size": lambda out, p: loratools.combine(
            [PLAIN, SMALL], size="60kB", output=out, progress=p
        ),
        "base": lambda out, p: loratools.combine(
            [DORA, PLAIN, DORA], base=SINGLE, rank=2, output=out, progress=p
        ),
        "vectors": lambda out, p: loratools.combine(
            [BIASES, BIASES], rank=2, output=out, progress=p
        ),
        "memory": lambda out, p: loratools.combine([PLAIN, SMALL], progress=p),
    },
    "convert": {
        "layout": lambda out, p: loratools.convert(PLAIN, to="mlx", output=out, progress=p),
        "dtype": lambda out, p: loratools.convert(
            PLAIN, to="peft", dtype="bfloat16", output=out, progress=p
        ),
        "memory": lambda out, p: loratools.convert(PLAIN, to="mlx", progress=p),
    },
    "inspect": {
        "spectrum": lambda out, p: loratools.inspect(PLAIN, spectrum=True, progress=p),
        "base": lambda out, p: loratools.inspect(
            PLAIN, spectrum=True, blocks=True, base=SINGLE, progress=p
        ),
        "several": lambda out, p: loratools.inspect([PLAIN, DORA], spectrum=True, progress=p),
        "not all": lambda out, p: loratools.inspect(
            [out, PLAIN, __file__], blocks=True, progress=p
        ),
        "headers": lambda out, p: loratools.inspect([PLAIN, DORA], progress=p),
    },
    "merge": {
        "whole": lambda out, p: loratools.merge(SINGLE, PLAIN, output=out, progress=p),
        "changed": lambda out, p: loratools.merge(
            SINGLE, PLAIN, output=out, progress=p, write=WriteOptions(only_changed=True)
        ),
        "overlay": lambda out, p: loratools.merge(
            f"{SINGLE}+{overlay(out)}", output=out, progress=p
        ),
    },
    "rescale": {
        "alpha": lambda out, p: loratools.rescale(PLAIN, strength=0.5, output=out, progress=p),
        "fold": lambda out, p: loratools.rescale(PLAIN, fold=True, output=out, progress=p),
        "base": lambda out, p: loratools.rescale(DORA, base=SINGLE, rank=2, output=out, progress=p),
        "memory": lambda out, p: loratools.rescale(PLAIN, strength=0.5, progress=p),
    },
    "resize": {
        "rank": lambda out, p: loratools.resize(PLAIN, rank=2, output=out, progress=p),
        "energy": lambda out, p: loratools.resize(PLAIN, energy=0.5, output=out, progress=p),
        "size": lambda out, p: loratools.resize(PLAIN, size="60kB", output=out, progress=p),
        "memory": lambda out, p: loratools.resize(PLAIN, rank=2, progress=p),
    },
    "svd_extract": {
        "rank": lambda out, p: extracted(out, out, p),
        "energy": lambda out, p: extracted(out, out, p, rank=None, energy=0.5),
        "check": lambda out, p: extracted(out, out, p, check=True),
        "dry run": lambda out, p: extracted(out, out, p, dry_run=True),
        "memory": lambda out, p: extracted(None, out, p),
    },
    "swap": {
        "in": lambda out, p: loratools.swap(own(SINGLE, out), PLAIN, progress=p),
        "another": lambda out, p: loratools.swap(swapped(out), SMALL, progress=p),
        "more": lambda out, p: loratools.swap(swapped(out, SMALL), [SMALL, PLAIN], progress=p),
        "out": lambda out, p: loratools.swap(swapped(out), (), progress=p),
        "file": lambda out, p: loratools.swap(
            own(SINGLE, out) / "model.safetensors", PLAIN, progress=p
        ),
        "dry run": lambda out, p: loratools.swap(swapped(out), SMALL, dry_run=True, progress=p),
        "look": lambda out, p: loratools.swap(swapped(out), progress=p),
        "dry look": lambda out, p: loratools.swap(swapped(out), dry_run=True, progress=p),
        "first dry run": lambda out, p: loratools.swap(
            own(SINGLE, out), SMALL, dry_run=True, progress=p
        ),
        "completed": lambda out, p: loratools.swap(interrupted(out), progress=p),
        "completed and out": lambda out, p: loratools.swap(interrupted(out), (), progress=p),
    },
}
#: Swaps that read headers alone.
AT_ONCE = {"look", "dry look", "first dry run"}
#: The verbs that fetch or send have tests of their own, in `tests/hub`.
ON_THE_HUB = {"pull", "push"}
VERBS = {verb: next(iter(runs.values())) for verb, runs in RUNS.items()}
every_run = pytest.mark.parametrize(
    ("verb", "run"), [(verb, name) for verb, runs in RUNS.items() for name in runs]
)


def new(folder: Path) -> Path:
    (folder / "new").mkdir(exist_ok=True)
    return folder / "new"


class EnoughError(Exception):
    """What a callback raises to stop a verb."""


def enough(*arguments: object) -> None:
    raise EnoughError


def test_every_verb_takes_a_callback() -> None:
    """Each of the command line, but for the one that only lists what the program can do."""
    made = {name for name in names(verbs) if name != "formats"}
    for name in made:
        progress = inspect.signature(getattr(loratools, name)).parameters["progress"]
        assert (progress.annotation, progress.default) == (Progress, None), name
    assert made == {*RUNS, *ON_THE_HUB}


class Watched(NamedTuple):
    """What a run told, and its steps: the part that each is of the work, and how much is in it."""

    told: list[tuple[int, int]]
    steps: list[tuple[Span, int]]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Watched]:
    """Runs a verb, once for all tests."""

    @cache
    def watch(verb: str, run: str) -> Watched:
        told: list[tuple[int, int]] = []
        steps: list[tuple[Span, int]] = []
        reached: dict[Span, int] = {}
        tell = Span.tell

        def noted(span: Span, done: int, total: int) -> None:
            # The beginning of a step may be told several times, while its first call runs.
            if not done and reached.get(span) != 0:
                steps.append((span, total))
            reached[span] = done
            tell(span, done, total)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Span, "tell", noted)
            output = new(tmp_path_factory.mktemp("watched")) / "out"
            RUNS[verb][run](output, lambda done, total: told.append((done, total)))
        return Watched(told, steps)

    return watch


@every_run
def test_the_share_that_is_done_never_falls_and_its_total_is_known_from_the_first_call(
    verb: str, run: str, watched: Callable[[str, str], Watched]
) -> None:
    told, _ = watched(verb, run)
    assert told[0][0] == 0
    ((total),) = {total for _, total in told}
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1][0] == total > 0
    # A bar that is full long before the end says no more than one that stays empty.
    is_full = [done == total for done, total in told]
    assert is_full.count(True) <= is_full.count(False)


@every_run
def test_each_phase_has_a_share_of_its_own(
    verb: str, run: str, watched: Callable[[str, str], Watched]
) -> None:
    """Else the bar would stand still in one of them, or be where the others end when one begins."""
    _, steps = watched(verb, run)
    for number, (span, size) in enumerate(steps):
        before = [other for other, _ in steps[:number] if other.meter is span.meter]
        if size:
            assert all(other.end <= span.begin for other in before)


@pytest.mark.parametrize("run", [run for run in RUNS["swap"] if run not in AT_ONCE])
def test_no_phase_of_a_swap_is_silent(run: str, watched: Callable[[str, str], Watched]) -> None:
    """Before it computes, and after, a swap hashes and copies as many bytes."""
    told, steps = watched("swap", run)
    meter = steps[-1][0].meter  # others are of the swaps before it
    spans = [span for span, size in steps if size and span.meter is meter]
    assert spans[0].begin == 0
    assert spans[-1].end == 1
    assert all(one.end == other.begin for one, other in pairwise(spans))
    changed = loratools.inspect(SMALL).adapter
    for span in spans:
        begin, end = (share * told[0][1] for share in (span.begin, span.end))
        assert sum(begin < done <= end for done in {done for done, _ in told}) >= len(changed)


def test_each_tensor_of_an_extraction_is_told_when_it_is_done(
    watched: Callable[[str, str], Watched],
) -> None:
    changed = len(loratools.inspect(PLAIN).adapter)
    assert len({done for done, _ in watched("svd_extract", "rank").told}) > changed


def test_each_adapter_of_a_list_is_told() -> None:
    seen: list[tuple[int, int]] = []
    loratools.inspect([PLAIN, "absent", DORA], progress=lambda *numbers: seen.append(numbers))
    assert list(dict.fromkeys(seen)) == [(0, 3), (1, 3), (2, 3), (3, 3)]


@every_run
def test_all_is_said_to_be_done_while_the_verb_can_still_be_stopped(
    verb: str, run: str, tmp_path: Path
) -> None:
    def stop(done: int, total: int) -> None:
        if done == total:
            raise EnoughError

    with pytest.raises(EnoughError):
        RUNS[verb][run](new(tmp_path) / "out", stop)
    # That of a swap is the model, in which all is done: see tests/swapping/test_journal.py.
    if verb != "swap":
        assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("verb", VERBS)
def test_what_a_callback_raises_stops_the_verb_and_leaves_no_output(
    verb: str, tmp_path: Path
) -> None:
    def stop(done: int, total: int) -> None:
        raise EnoughError

    with pytest.raises(EnoughError):
        VERBS[verb](new(tmp_path) / "out", stop)
    if verb != "swap":
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


@pytest.mark.parametrize(
    ("unit", "shown"),
    [
        ("targets", r" 17%\|.*\| 12/70 targets \[[\d:]+<[\d:]+\]"),
        ("B", r" 17%\|.*\| 1.20G/7.00G \[[\d:]+<[\d:]+, .*B/s\]"),
    ],
)
def test_a_bar_says_how_much_of_what_is_done(
    unit: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    size = 10**8 if unit == "B" else 1
    with bar(unit) as show:
        assert capsys.readouterr().err == "", "a verb that refuses its arguments shows no bar"
        show(0, 70 * size)
        time.sleep(0.11)  # a bar is drawn ten times a second
        show(12 * size, 70 * size)
        assert re.search(shown, capsys.readouterr().err)
    assert capsys.readouterr().err.endswith("\r")


def test_the_clock_of_a_bar_goes_on_while_nothing_is_done(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with bar("targets") as show:
        for done in (0, 30, 30):
            capsys.readouterr()
            show(done, 70)
            time.sleep(0.11)
        show(30, 70)
        assert "30/70 targets" in capsys.readouterr().err


def test_the_time_that_is_left_is_as_long_as_the_work_took_so_far(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with bar("targets") as show:
        for done in (0, 0, 0, 1):
            show(done, 100)
            time.sleep(0.11)
        show(1, 100)
        left = re.findall(r"1/100 targets \[[\d:]+<(\d\d):(\d\d)\]", capsys.readouterr().err)
    minutes, seconds = left[-1]
    assert int(minutes) * 60 + int(seconds) > 30


def test_help_of_a_verb_is_its_own() -> None:
    @shows_progress("B")
    def verb(one: int, *, progress: bool | None = None) -> int:
        """Do it."""
        return one

    assert str(inspect.signature(verb)).startswith("(one: int, *, progress")
    assert (verb.__name__, verb.__doc__) == ("verb", "Do it.")
    assert verb(1, progress=False) == 1
