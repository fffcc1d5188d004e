"""Whatever fails, a model is as before or as it was to be, at the latest after the next command."""

import errno
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import loratools
from loratools import FormatError, LoratoolsError, StorageError
from loratools.files.checkpoints import open_checkpoint
from loratools.files.swapped import STATE, SwapState, read_state
from loratools.io import stopping
from tests.e2e.commands import digests, run_here
from tests.swapping.models import contents, journals, names_in, write_model, write_update
from tests.verbs import own

Call = Callable[..., Any]
#: What a swap changes on disk by.
CALLS = ("mkdir", "pwrite", "ftruncate", "copy_file_range", "fsync", "replace", "unlink", "rmdir")
FIRST, SECOND = "m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"
#: Each with the adapters that are in before, and those that are to be in.
SWAPS = {
    "in": ((), ("ab",)),
    "another": (("ab",), ("bc",)),
    "more": (("ab",), ("ab", "cd")),
    "out": (("ab", "cd"), ()),
}


#: The files with the new tensors of each swap: one for each weight file that gets some.
NEXT = {
    "in": ["next-1.safetensors"],
    "another": ["next-1.safetensors", "next-2.safetensors"],
    "more": ["next-1.safetensors", "next-2.safetensors"],
    "out": [],
}
#: The weight files that each swap writes to.
WRITTEN = {
    "in": [FIRST],
    "another": [FIRST, SECOND],
    "more": [FIRST, SECOND],
    "out": [FIRST, SECOND],
}


class Place:
    """A model, and adapters for it by the names of the weights that they change."""

    def __init__(self, folder: Path) -> None:
        self.base = write_model(folder / "base")
        self.model = folder / "model"
        self.adapters = {
            names: write_update(folder / names, names, seed)
            for seed, names in enumerate(("ab", "bc", "cd"))
        }
        self._contents: dict[tuple[str, ...], dict[str, str]] = {}

    def reset(self, names: tuple[str, ...]) -> None:
        """Make the model a new copy of the base, with these adapters in it."""
        kept = self.model.with_name(" ".join(("kept", *names)))
        if not kept.exists():
            own(self.base, self.model)
            self.swap(names)
            self._contents[names] = contents(self.model)
            shutil.copytree(self.model, kept)
        shutil.rmtree(self.model, ignore_errors=True)
        shutil.copytree(kept, self.model)

    def swap(self, names: tuple[str, ...]) -> loratools.SwapReport:
        write = loratools.WriteOptions(jobs=1)
        return loratools.swap(self.model, [self.adapters[name] for name in names], write=write)

    def expected(self, names: tuple[str, ...]) -> dict[str, str]:
        if names not in self._contents:
            self.reset(names)
        return self._contents[names]

    def healed(self) -> tuple[str, ...]:
        """The adapters that are in the model after the next command, by all that can be seen."""
        report = loratools.swap(self.model)
        names = tuple(names_in(report))
        assert contents(self.model) == self.expected(names)
        for journal in journals(self.model):
            state = read_state(journal)
            assert state is not None
            assert {path.name for path in journal.iterdir()} == {STATE, *state.files}
        assert bool(journals(self.model)) == bool(names)
        loratools.inspect(self.adapters["ab"], base=self.model)
        return names


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of the time would go into it, and no test here loses what is not on the disk."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


class Broken(BaseException):
    """A kill, as far as one can be made within a process: nothing gets done any more."""


@contextmanager
def failing(
    turn: int, error: Callable[[], BaseException], *, for_good: bool
) -> Iterator[list[str]]:
    """Let the call of this number fail, or all from there on; yield the names of those that do."""
    count = 0
    failed: list[str] = []

    def counted(name: str, real: Call) -> Call:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == turn or (for_good and count > turn):
                failed.append(name)
                raise error()
            return real(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, counted(name, getattr(os, name)))
        yield failed


def no_space() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("way", SWAPS)
def test_any_call_may_fail(place: Place, way: str, for_good: bool) -> None:
    before, after = SWAPS[way]
    seen, mixtures = set(), 0
    wanted = {names: place.expected(names) for names in (before, after)}
    for turn in range(1, 400):
        place.reset(before)
        error: StorageError | None = None
        with failing(turn, no_space, for_good=for_good) as failed:
            try:
                place.swap(after)
            except StorageError as caught:
                error = caught
        if not failed:
            break
        seen.add(failed[0])
        if error is None:
            assert contents(place.model) == wanted[after], (turn, failed)
        elif "may be a mixture now" in str(error):
            mixtures += 1
            if contents(place.model) != wanted[after]:
                with pytest.raises(FormatError, match="a swap has stopped in the middle"):
                    loratools.merge(place.model, place.adapters["ab"], output=None)
        else:
            assert contents(place.model) == wanted[before], (turn, failed)
            assert "no space left" in str(error)
        names = place.healed()
        assert names in (before, after)
        if error is not None and "may be a mixture now" not in str(error) and not for_good:
            assert names == before, (turn, failed)
        if error is None or "may be a mixture now" in str(error):
            assert names == after
    assert not failed
    assert place.healed() == after
    assert seen >= {"copy_file_range", "fsync", "replace"}
    # What fails once is done once more, and what fails for good leaves a mixture, and says so.
    assert bool(mixtures) == for_good


@pytest.mark.parametrize("way", SWAPS)
def test_a_swap_that_ends_at_any_call_is_old_or_new_after_the_next(place: Place, way: str) -> None:
    """As a kill ends it: not even what it would clean up gets done. See also test_kills.py."""
    before, after = SWAPS[way]
    found = []
    for turn in range(1, 400):
        place.reset(before)
        with failing(turn, Broken, for_good=True) as failed, suppress(Broken):
            place.swap(after)
        if not failed:
            break
        found.append(place.healed())
    assert not failed
    switch = found.index(after)
    assert found == [before] * switch + [after] * (len(found) - switch)
    assert 3 < switch < len(found) - 5


def test_a_swap_that_is_interrupted_while_it_completes_another_is_completed(place: Place) -> None:
    before, after = SWAPS["another"]
    for first in range(20, 400):
        place.reset(before)
        with failing(first, Broken, for_good=True) as failed, pytest.raises(Broken):
            place.swap(after)
        if _state(place).is_interrupted:
            break
    left = shutil.copytree(place.model, place.model.with_name("left"))
    for turn in range(1, 100):
        shutil.rmtree(place.model)
        shutil.copytree(left, place.model)
        with failing(turn, Broken, for_good=True) as failed, suppress(Broken):
            assert loratools.swap(place.model).completed
        if not failed:
            break
        assert place.healed() == after
    assert turn > 5
    # The next command need not be one that only looks.
    for names in ((), before, after):
        shutil.rmtree(place.model)
        shutil.copytree(left, place.model)
        assert place.swap(names).completed
        assert place.healed() == names


def _state(place: Place) -> SwapState:
    (journal,) = journals(place.model)
    state = read_state(journal)
    assert state is not None
    return state


def interrupted(place: Place, way: str = "another") -> None:
    """Leave the model in the middle of a swap."""
    before, after = SWAPS[way]
    for turn in range(1, 400):
        place.reset(before)
        with failing(turn, Broken, for_good=True), pytest.raises(Broken):
            place.swap(after)
        whole = (place.expected(before), place.expected(after))
        if _state(place).is_interrupted and contents(place.model) not in whole:
            return
    raise AssertionError


def test_every_verb_refuses_a_model_that_is_half_swapped(
    place: Place, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    interrupted(place)
    model, adapter = place.model, place.adapters["ab"]
    (model / "config.json").write_text("{}")
    for command in (
        ["inspect", adapter, "--base", model],
        ["merge", model, adapter, "-o", tmp_path / "out"],
        ["merge", "--in-place", model, adapter],
        ["merge", model / "m.safetensors.index.json", adapter, "-o", tmp_path / "out"],
        ["rescale", adapter, "--strength", 2, "--base", model, "--rank", 1, "-o", tmp_path / "out"],
        ["svd-extract", model, place.base, "--rank", 1, "-o", tmp_path / "out"],
        ["svd-extract", place.base, model, "--rank", 1, "-o", tmp_path / "out"],
        ["swap", model, "--dry-run"],
        ["swap", model, "--out", "--dry-run"],
        ["push", model, "ann/model", "--create", "--base", "ann/base"],
    ):
        result = run_here(capsys, *command)
        assert result.code == 1, command
        says = f"a swap has stopped in the middle, or is at work; loratools swap {model} completes"
        assert says in result.err, command
    assert not (tmp_path / "out").exists()
    result = run_here(capsys, "swap", model)
    assert (result.code, result.err) == (0, "Note: a swap that was interrupted is completed\n")
    assert run_here(capsys, "merge", model, adapter, "-o", tmp_path / "out").code == 0


HOSTILE: dict[str, Callable[[Path], object]] = {
    "edited": lambda j: _edit(j, lambda s: s.replace('"source": null', '"source": "next-1"')),
    "another adapter": lambda j: _edit(j, lambda s: s.replace("/ab", "/xy")),
    "another version": lambda j: _edit(j, lambda s: s.replace('"version": 1', '"version": 2')),
    "no json": lambda j: (j / STATE).write_text("{"),
    "empty": lambda j: (j / STATE).write_text(""),
    "a list": lambda j: (j / STATE).write_text("[]"),
    "a sealed lie": lambda j: _seal(j, {"tensors": {"a.weight": {"originals": "../x"}}}),
    "a sealed path": lambda j: _seal(j, {"tensors": {"a.weight": _entry("../x")}}),
    "a sealed text": lambda j: _seal(j, {"adapters": "ab", "tensors": []}),
    "a link": lambda j: _link(j / STATE),
    "no state": lambda j: (j / STATE).unlink(),
    "no originals": lambda j: (j / "originals-1.safetensors").unlink(),
    "originals of another": lambda j: _flip(j / "originals-1.safetensors"),
    "short originals": lambda j: os.truncate(j / "originals-1.safetensors", 300),
    "originals behind a link": lambda j: _link(j / "originals-1.safetensors"),
}


def _edit(journal: Path, change: Callable[[str], str]) -> None:
    text = (journal / STATE).read_text()
    assert change(text) != text
    (journal / STATE).write_text(change(text))


def _entry(name: str) -> dict[str, str | None]:
    return {"originals": name, "original": "0" * 64, "current": "0" * 64, "source": None}


def _seal(journal: Path, changes: dict[str, object]) -> None:
    """Write another state, with the SHA-256 that it should have."""
    from loratools.files.swapped import _digest

    fields = json.loads((journal / STATE).read_text()) | changes
    del fields["sha256"]
    (journal / STATE).write_text(json.dumps({**fields, "sha256": _digest(fields)}))


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def _link(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))
    file.symlink_to("elsewhere")


@pytest.mark.parametrize("way", HOSTILE)
def test_a_journal_that_is_not_as_it_was_left_is_refused_and_nothing_changes(
    place: Place, way: str
) -> None:
    place.reset(("ab",))
    (journal,) = journals(place.model)
    HOSTILE[way](journal)
    before = digests(place.model)
    for names in ((), ("bc",), ("cd",)):
        with pytest.raises(LoratoolsError) as error:
            place.swap(names)
        assert isinstance(error.value, FormatError | StorageError), error.value
        assert ".loratools-swap" in str(error.value)
        assert digests(place.model) == before
    if "originals" not in way:
        with pytest.raises(LoratoolsError, match=r"\.loratools-swap"):
            open_checkpoint(place.model)


def test_a_source_that_is_damaged_is_not_written_into_a_model(place: Place) -> None:
    interrupted(place)
    (journal,) = journals(place.model)
    for file in journal.glob("next-*"):
        _flip(file)
    before = digests(place.model)
    for names in ((), ("ab",)):
        with pytest.raises(FormatError, match="other bytes than were put there"):
            place.swap(names)
    assert digests(place.model) == before


def test_a_journal_of_another_model_is_refused(place: Place, tmp_path: Path) -> None:
    """Of one with the same layout by its numbers."""
    place.reset(("ab",))
    other = tmp_path / "other"
    loratools.merge(place.base, place.adapters["cd"], output=other)
    (journal,) = journals(place.model)
    shutil.copytree(journal, other / journal.name)
    before = digests(other)
    with pytest.raises(FormatError, match="has changed since the last swap"):
        loratools.swap(other, ())
    assert digests(other) == before


class Signalled:
    """Counts calls of `os.fsync`; at one of them this process is sent a signal, and notices it."""

    def __init__(self, patch: pytest.MonkeyPatch, number: signal.Signals, turn: int) -> None:
        self.count = 0
        self._number, self._turn, self._real = number, turn, os.fsync
        patch.setattr(os, "fsync", self._call)

    def _call(self, fd: int) -> None:
        self.count += 1
        if self.count == self._turn:
            os.kill(os.getpid(), self._number)
            while stopping._run.reason is None:
                time.sleep(0.001)
        self._real(fd)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_the_old_or_comes_too_late(
    place: Place, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    """Before the swap is decided nothing has changed; afterwards it is carried out."""
    before, after = SWAPS["another"]
    expected = {code: place.expected(n) for code, n in ((128 + number, before), (0, after))}
    codes = []
    for turn in range(1, 30):
        place.reset(before)
        with pytest.MonkeyPatch.context() as patch:
            calls = Signalled(patch, number, turn)
            result = run_here(capsys, "swap", place.model, "--in", place.adapters["bc"])
        if calls.count < turn:
            break
        codes.append(result.code)
        assert contents(place.model) == expected[result.code], result.err
        assert place.healed() == (before if result.code else after)
    assert codes == sorted(codes, reverse=True)
    assert set(codes) == {128 + number, 0}


def test_ctrl_c_in_a_program_completes_what_is_decided(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = SWAPS["out"]
    place.reset(before)
    real, calls = os.copy_file_range, 0

    def interrupt(*arguments: Any) -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(os, "copy_file_range", interrupt)
    with pytest.raises(KeyboardInterrupt):
        place.swap(after)
    assert contents(place.model) == place.expected(after)
    assert not _state(place).is_interrupted if journals(place.model) else True


class EnoughError(Exception):
    """What a callback of progress raises to stop a swap."""


@pytest.mark.parametrize("way", SWAPS)
def test_a_callback_stops_a_swap_or_is_too_late_and_never_leaves_a_mixture(
    place: Place, way: str
) -> None:
    """What it raises comes out at once, or when all is in the model that was decided."""
    before, after = SWAPS[way]
    adapters = [place.adapters[name] for name in after]
    wanted = {names: place.expected(names) for names in (before, after)}
    found = []
    for turn in range(1, 400):
        place.reset(before)
        calls: list[bool] = []

        def progress(done: int, total: int, calls: list[bool] = calls, turn: int = turn) -> None:
            calls.append(any(_is_interrupted(journal) for journal in journals(place.model)))
            if len(calls) == turn:
                raise EnoughError

        try:
            loratools.swap(place.model, adapters, jobs=1, progress=progress)
        except EnoughError:
            is_decided = calls[-1]
            assert len(calls) == turn, "it is not called again"
            assert contents(place.model) == wanted[after if is_decided else before]
            assert place.healed() == (after if is_decided else before)
            found.append(is_decided)
        else:
            break
    assert set(found) == {False, True}


def _is_interrupted(journal: Path) -> bool:
    state = read_state(journal)
    return state is not None and state.is_interrupted


def test_a_callback_that_stops_the_completion_of_a_swap_leaves_it_to_the_next(
    place: Place,
) -> None:
    _, after = SWAPS["another"]
    interrupted(place)
    left = shutil.copytree(place.model, place.model.with_name("left"))
    outcomes = []
    for turn in range(1, 100):
        shutil.rmtree(place.model)
        shutil.copytree(left, place.model)
        calls: list[int] = []

        def progress(done: int, total: int, calls: list[int] = calls, turn: int = turn) -> None:
            calls.append(done)
            if len(calls) == turn:
                raise EnoughError

        try:
            loratools.swap(place.model, jobs=1, progress=progress)
        except EnoughError:
            is_as_found = contents(place.model) == contents(left)
            assert is_as_found or contents(place.model) == place.expected(after)
            assert _state(place).is_interrupted == is_as_found
            outcomes.append(is_as_found)
            assert place.healed() == after
        else:
            break
    assert set(outcomes) == {True, False}


@pytest.mark.parametrize("way", SWAPS)
def test_each_step_is_on_the_disk_before_the_next_relies_on_it(place: Place, way: str) -> None:
    """What a loss of power would show: files are synced before a state is that names them."""
    before, after = SWAPS[way]
    place.reset(before)
    steps: list[str] = []
    real = os.replace

    def sync(fd: int) -> None:
        steps.append(Path(f"/proc/self/fd/{fd}").readlink().name)

    def rename(source: Any, target: Any, **options: Any) -> None:
        real(source, target, **options)
        steps.append("interrupted" if _state(place).is_interrupted else "settled")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", sync)
        patch.setattr(os, "replace", rename)
        place.swap(after)
    journal = f".{FIRST}.loratools-swap"
    decided = steps.index("interrupted")
    settled = steps.index("settled", decided)
    assert steps[decided - 1 : decided + 2] == [f"{STATE}.new", "interrupted", journal]
    # The new tensors, originals of those that had not changed before, and then their folder.
    made, (last, _) = steps[: decided - 2], steps[decided - 2 : decided]
    assert last == journal
    assert {name for name in made if name.startswith("next")} == set(NEXT[way])
    assert any(name.startswith("originals") for name in made) == (way in {"in", "another", "more"})
    # The weight files, between the two states.
    written = steps[decided + 2 : settled - 1]
    assert set(written) == set(WRITTEN[way])
    assert steps[settled - 1 : settled + 2] == [f"{STATE}.new", "settled", journal]


def test_a_model_that_changes_during_a_swap_is_not_mixed(place: Place) -> None:
    for before, after in SWAPS.values():
        place.reset(before)

        def change(report: object) -> None:
            time.sleep(0.01)  # for a later time of change, where clocks are coarse
            _flip(place.model / FIRST)

        adapters = [place.adapters[name] for name in after]
        with pytest.raises(StorageError, match="changed while it was read"):
            loratools.swap(place.model, adapters, approve=change)
        changed = digests(place.model)
        _flip(place.model / FIRST)
        assert contents(place.model) == place.expected(before)
        assert changed != digests(place.model)


def test_a_reader_that_has_begun_before_a_swap_is_refused_its_mixture(
    place: Place, tmp_path: Path
) -> None:
    place.reset(())

    def progress(done: int, total: int) -> None:
        if not done and not journals(place.model):
            time.sleep(0.01)  # for a later time of change, where clocks are coarse
            place.swap(("ab",))

    write = loratools.WriteOptions(progress=progress)
    with pytest.raises(StorageError, match="changed while it was read"):
        loratools.merge(place.model, place.adapters["cd"], output=tmp_path / "out", write=write)
    assert not (tmp_path / "out").exists()
