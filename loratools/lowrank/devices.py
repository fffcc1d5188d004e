"""The device that computes, made ready for several threads."""

import threading

import torch

_lock = threading.Lock()
_ready: set[torch.device] = set()


def ready(device: torch.device | None) -> torch.device:
    """The device, or the CPU for None, with torch's linear algebra loaded for it.

    torch loads that library at the first call on a GPU, and fails if two threads make this call at
    once.
    """
    device = device or torch.device("cpu")
    with _lock:
        if device not in _ready:
            torch.linalg.qr(torch.ones(1, 1, device=device))
            _ready.add(device)
    return device
