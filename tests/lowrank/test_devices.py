"""A device is made ready by one thread, whichever threads ask for it."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from loratools.lowrank import devices
from loratools.lowrank.devices import ready


def test_the_first_call_on_a_device_is_made_by_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where torch fails if a second thread calls it meanwhile."""
    qr, calls, together = torch.linalg.qr, [], threading.Barrier(4)

    def first(matrix: torch.Tensor) -> object:
        calls.append(threading.get_ident())
        time.sleep(0.05)
        return qr(matrix)

    def asked(_: int) -> torch.device:
        together.wait(timeout=10)
        return ready(None)

    monkeypatch.setattr(devices, "_ready", set())
    monkeypatch.setattr(torch.linalg, "qr", first)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(asked, range(4))) == [torch.device("cpu")] * 4
    assert len(calls) == 1
