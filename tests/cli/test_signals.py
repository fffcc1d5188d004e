"""A signal ends a command at once, or where it has cleaned up; never in the middle of something."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from loratools.cli.failures import Stopped, exit_code
from loratools.cli.signals import STOPPING, Stoppable, ignore_signals
from loratools.io.small import replace_text
from loratools.io.stopping import begin, check_stop, finish, unfinished

KINDS = [(number, KeyboardInterrupt if number == signal.SIGINT else Stopped) for number in STOPPING]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Those of pytest are put back, and this process is not one that is to end."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    begin()


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def test_a_command_returns_or_raises_as_it_would_without() -> None:
    assert Stoppable(lambda: 3).run() == 3
    with pytest.raises(KeyError, match="x"):
        Stoppable(lambda: dict[str, int]()["x"]).run()
    with pytest.raises(SystemExit):
        Stoppable(lambda: sys.exit(1)).run()


@pytest.mark.parametrize(("number", "kind"), KINDS)
def test_a_command_without_anything_to_clean_up_is_not_waited_for(
    number: signal.Signals, kind: type[BaseException]
) -> None:
    def command() -> None:
        send(number)
        time.sleep(5)

    stoppable = Stoppable(command)
    begin = time.monotonic()
    with pytest.raises(kind):
        stoppable.run()
    assert time.monotonic() - begin < 3
    assert stoppable._thread.is_alive()


@pytest.mark.parametrize(("number", "kind"), KINDS)
@pytest.mark.parametrize("again", [False, True])
def test_a_command_that_is_unfinished_is_stopped_where_it_asks_and_waited_for(
    number: signal.Signals, kind: type[BaseException], again: bool
) -> None:
    """A signal other than SIGINT that comes twice changes nothing."""
    events = []

    def command() -> None:
        with unfinished():
            try:
                send(number)
                time.sleep(0.3)
                events.append("in the middle")
                check_stop()
                events.append("never")
            finally:
                if again and number != signal.SIGINT:
                    send(number)
                time.sleep(0.3)
                events.append("cleaned up")

    stoppable = Stoppable(command)
    with pytest.raises(kind):
        stoppable.run()
    assert events == ["in the middle", "cleaned up"]
    assert not stoppable._thread.is_alive()


def test_the_first_signal_says_how_a_command_ended() -> None:
    def command() -> None:
        with unfinished():
            send(signal.SIGTERM)
            time.sleep(0.2)
            send(signal.SIGHUP)
            time.sleep(0.2)
            check_stop()

    with pytest.raises(Stopped) as stopped:
        Stoppable(command).run()
    assert exit_code(stopped.value) == 143


def test_a_second_interrupt_ends_the_cleaning_up_too() -> None:
    forgotten = Event()

    def command() -> None:
        with unfinished():
            send(signal.SIGINT)
            time.sleep(0.3)
            send(signal.SIGINT)
            forgotten.wait(60)

    stoppable = Stoppable(command)
    with pytest.raises(KeyboardInterrupt):
        stoppable.run()
    assert stoppable._thread.is_alive()
    forgotten.set()
    stoppable._thread.join()


def test_a_signal_before_something_is_begun_is_not_forgotten() -> None:
    """Either it ends the command, or the block is not entered: all that is begun is waited for."""
    for delay in (0, 0.0001, 0.001):
        begun: list[object] = []

        def command(delay: float = delay, begun: list[object] = begun) -> None:
            send(signal.SIGTERM)
            time.sleep(delay)
            with unfinished():
                begun.append(delay)
                time.sleep(0.3)
                check_stop()

        stoppable = Stoppable(command)
        with pytest.raises(Stopped):
            stoppable.run()
        assert not begun or not stoppable._thread.is_alive()
        stoppable._thread.join()


def test_a_signal_after_the_last_check_lets_the_command_succeed() -> None:
    def command() -> str:
        with unfinished():
            send(signal.SIGTERM)
            time.sleep(0.3)
        return "complete"

    assert Stoppable(command).run() == "complete"


def test_what_has_finished_is_not_waited_for_any_more() -> None:
    """Such as a command that prints to somebody who does not read."""

    def command() -> None:
        with unfinished():
            pass
        send(signal.SIGTERM)
        time.sleep(5)

    begin = time.monotonic()
    with pytest.raises(Stopped):
        Stoppable(command).run()
    assert time.monotonic() - begin < 3


def test_one_run_does_not_stop_the_next() -> None:
    def command() -> None:
        send(signal.SIGTERM)
        time.sleep(5)

    with pytest.raises(Stopped):
        Stoppable(command).run()
    Stoppable(check_stop).run()


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_that_is_ignored_stays_ignored(number: signal.Signals) -> None:
    """As in a job that a shell has put into the background, and under nohup."""
    signal.signal(number, signal.SIG_IGN)

    def command() -> str:
        send(number)
        time.sleep(0.2)
        check_stop()
        return "complete"

    assert Stoppable(command).run() == "complete"


def test_nothing_interrupts_what_is_left_to_do() -> None:
    ignore_signals()
    for number in STOPPING:
        send(number)


def test_a_small_file_is_replaced_whole_or_left_and_nothing_is_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a lock file: a signal is waited for in the middle, and stops the command after it."""
    path = tmp_path / "file"
    path.write_text("old")
    real = os.fsync

    def fsync(fd: int) -> None:
        send(signal.SIGTERM)
        time.sleep(0.2)
        real(fd)

    def command() -> str:
        replace_text(path, "new")
        return "never"

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(Stopped):
        Stoppable(command).run()
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [("file", "new")]


@pytest.mark.parametrize(("number", "kind"), KINDS)
def test_a_signal_after_the_output_has_its_name_changes_nothing(
    number: signal.Signals, kind: type[BaseException]
) -> None:
    def command() -> int:
        with unfinished():
            finish()
        send(number)
        time.sleep(0.3)
        return 5

    assert Stoppable(command).run() == 5


def test_a_command_whose_text_nobody_takes_is_stopped_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("loratools.cli.signals._PRINTING_TICKS", 1)
    stuck = Event()

    def command() -> None:
        finish()
        send(signal.SIGTERM)
        stuck.wait(60)

    stoppable = Stoppable(command)
    with pytest.raises(Stopped):
        stoppable.run()
    stuck.set()
    stoppable._thread.join()
