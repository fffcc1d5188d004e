"""SIGINT and SIGTERM as exceptions, so that what is half done is cleaned up."""

import signal
import threading
from types import FrameType

from loratools.cli.failures import Terminated

_RETRY_SECONDS = 0.05


def raise_on_signals() -> list[BaseException]:
    """Raise on SIGINT (unless it is ignored, as for a job in the background) and on SIGTERM.

    What is raised is also added to the list: on its way up it may turn into something else.
    """
    raised: list[BaseException] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if _is_importing(frame):
            # An exception in the middle of torch's C++ would abort the process on the spot.
            threading.Timer(_RETRY_SECONDS, signal.raise_signal, [number]).start()
            return
        raised.append(KeyboardInterrupt() if number == signal.SIGINT else Terminated())
        raise raised[-1]

    signal.signal(signal.SIGTERM, stop)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, stop)
    return raised


def ignore_signals() -> None:
    """Let nothing interrupt what is left to do."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            return True
        frame = frame.f_back
    return False
