"""A signal ends a command at once, or where it has cleaned up; never in the middle of something."""

import os
import signal
import sys
import time

import pytest

from loratools.cli.failures import Terminated
from loratools.cli.signals import Stoppable, ignore_signals


@pytest.fixture(autouse=True)
def handlers():
    """Those of pytest are put back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number):
    os.kill(os.getpid(), number)


def test_a_command_returns_or_raises_as_it_would_without():
    assert Stoppable(lambda _: 3).run() == 3
    with pytest.raises(KeyError, match="x"):
        Stoppable(lambda _: {}["x"]).run()
    with pytest.raises(SystemExit):
        Stoppable(lambda _: sys.exit(1)).run()


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_a_command_without_anything_to_clean_up_is_not_waited_for(number, kind):
    def command(stoppable):
        send(number)
        time.sleep(5)

    stoppable = Stoppable(command)
    begin = time.monotonic()
    with pytest.raises(kind):
        stoppable.run()
    assert time.monotonic() - begin < 3
    assert stoppable._thread.is_alive()


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
@pytest.mark.parametrize("again", [False, True])
def test_a_command_that_cleans_up_is_stopped_where_it_asks_and_waited_for(number, kind, again):
    """A SIGTERM that comes twice changes nothing."""
    events = []

    def command(stoppable):
        stoppable.check()
        try:
            send(number)
            time.sleep(0.3)
            events.append("in the middle")
            stoppable.check()
            events.append("never")
        finally:
            if again and number == signal.SIGTERM:
                send(number)
            time.sleep(0.3)
            events.append("cleaned up")

    stoppable = Stoppable(command)
    with pytest.raises(kind):
        stoppable.run()
    assert events == ["in the middle", "cleaned up"]
    assert not stoppable._thread.is_alive()


def test_a_second_interrupt_ends_the_cleaning_up_too():
    def command(stoppable):
        stoppable.check()
        send(signal.SIGINT)
        time.sleep(0.3)
        send(signal.SIGINT)
        time.sleep(5)

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        Stoppable(command).run()
    assert time.monotonic() - begin < 3


def test_a_signal_before_the_first_check_is_not_forgotten():
    """Either it ends the command, or the check raises: nothing is begun that nobody waits for."""
    for delay in (0, 0.0001, 0.001):
        begun = []

        def command(stoppable, delay=delay, begun=begun):
            send(signal.SIGTERM)
            time.sleep(delay)
            stoppable.check()
            begun.append(stoppable)
            time.sleep(0.3)
            stoppable.check()

        stoppable = Stoppable(command)
        with pytest.raises(Terminated):
            stoppable.run()
        assert not begun or not stoppable._thread.is_alive()


def test_a_signal_after_the_last_check_lets_the_command_succeed():
    def command(stoppable):
        stoppable.check()
        send(signal.SIGTERM)
        time.sleep(0.3)
        return "complete"

    assert Stoppable(command).run() == "complete"


def test_an_interrupt_that_is_ignored_stays_ignored():
    """As in a job that a shell has put into the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def command(stoppable):
        send(signal.SIGINT)
        time.sleep(0.3)
        return "complete"

    assert Stoppable(command).run() == "complete"


def test_nothing_interrupts_what_is_left_to_do():
    ignore_signals()
    send(signal.SIGINT)
    send(signal.SIGTERM)
