"""The device that computes, made ready for several threads."""

import threading

import torch

from loratools.errors import OptionError

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


def usable_device(name: str | torch.device) -> torch.device:
    """The device of this name, after a trial.

    Raises:
        OptionError: there is no such device, or it does not compute in float64.
    """
    try:
        one = torch.ones((), dtype=torch.float64, device=name)
        one.item()  # fails on torch's `meta` device, whose tensors have no values
    # torch raises any of these where it was built without the device, or the device lacks float64.
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise OptionError(f"device {str(name)!r} cannot be used: {reason}") from error
    return one.device
