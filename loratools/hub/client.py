"""huggingface_hub's client, made strict: its exceptions become errors of loratools.

Calls that are safe to repeat are retried, and an error is one line that never shows a token.
"""

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, disable_progress_bars, logging

from loratools.errors import ConflictError, HubError, LoratoolsError, NetworkError, StorageError
from loratools.hub import session, xet
from loratools.hub.token import quoted, token, without_user
from loratools.typed import fetching_once
from loratools.version import __version__

T = TypeVar("T")

DEFAULT_REVISION = constants.DEFAULT_REVISION

_ATTEMPTS = 5
#: HTTP statuses after which the same request may succeed later.
_BUSY = frozenset({429, 500, 502, 503, 504})
#: The client's packages: what their code raises over an answer is not a fault of ours.
_CLIENT = frozenset({"huggingface_hub", "httpx2"})


def api() -> HfApi:
    """The client, for the endpoint and the token that the environment names.

    Raises:
        HubError, FormatError, StorageError: see `token.token`.
    """
    token()  # checks it, which the client does not do when it looks it up again
    session.install()
    xet.install()
    return HfApi(library_name=session.LIBRARY, library_version=__version__)


def headers() -> dict[str, str]:
    """The headers that the client sends with each request, including the token."""
    found: dict[str, str] = build_hf_headers(
        library_name=session.LIBRARY, library_version=__version__
    )
    return found


def cache_folder() -> Path:
    """The folder in which the client caches what it has fetched."""
    return Path(constants.HF_HUB_CACHE)


def home_folder() -> Path:
    """HF_HOME, the folder in which programs that use the Hub keep data of their own."""
    return Path(constants.HF_HOME)


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    return constants.is_offline_mode()


def asked(where: object, call: Callable[[HfApi], T]) -> T:
    """The result of `call`, retried where that may help; only for calls that may be made twice.

    Raises:
        HubError, NetworkError, StorageError: see `hub_errors`.
    """
    with hub_errors(where):
        return _retrying(lambda: call(api()))


def _retrying(call: Callable[[], T]) -> T:
    """The result of `call`, repeated with growing pauses while the Hub is busy or unreachable."""
    for attempt in range(_ATTEMPTS - 1):
        try:
            return call()
        except (httpx2.TransportError, OSError) as error:
            if not _may_pass(error):
                raise
            pause = _retry_after(error)
        time.sleep(2.0**attempt if pause is None else pause)
    return call()


def _may_pass(error: Exception) -> bool:
    """Whether the same call may succeed later."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _BUSY
    if isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError):
        return False
    # An OSError of this system has a number and would come again; the client raises its own
    # without one, for a file that arrived in another size, say.
    return not isinstance(error, OSError) or isinstance(error, ConnectionError) or not error.errno


def _retry_after(error: Exception) -> float | None:
    """The pause in seconds that the Hub asks for; None where it does not ask."""
    if not isinstance(error, HfHubHTTPError):
        return None
    value = error.response.headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else None  # a minute at most: see `session`


@contextmanager
def hub_errors(what: object) -> Iterator[None]:
    """Turn the client's exceptions into errors that name what was asked for and what to do.

    Raises:
        HubError: `what` does not exist, or may not be read or written.
        NetworkError: the Hub cannot be reached, or does not answer as it should.
        StorageError: the cache cannot be written.
    """
    try:
        yield
    except (LoratoolsError, MemoryError):
        raise
    except Exception as raised:
        error = _unwrapped(raised)
        known = next((say for kinds, say in _SAYINGS if isinstance(error, kinds)), None)
        if known is None and not _is_of_client(error):
            raise
        raise (known or _unread)(what, error) from None


def _unwrapped(error: Exception) -> Exception:
    """The cause of a failed upload, which the client wraps in a RuntimeError."""
    cause = error.__cause__
    return cause if type(error) is RuntimeError and isinstance(cause, Exception) else error


def _gated(what: object, error: GatedRepoError) -> HubError:
    place = f"{constants.ENDPOINT}/{error.repo_id}" if error.repo_id else "its page"
    return HubError(
        f"{what}: gated",
        hint=f"accept its conditions on {without_user(place)}, and give a token of that "
        f"account in HF_TOKEN",
    )


def _absent(what: object, error: Exception) -> HubError:
    return HubError(f"{what}: the repository has no such file")


def _unreached(what: object, error: Exception) -> NetworkError:
    reason = quoted(str(error)) or type(error).__name__
    return NetworkError(f"{what}: the Hub cannot be reached ({reason})")


def _broken(what: object, error: OSError) -> StorageError:
    """An error of the disk if the system gave it a number, else of an incomplete download."""
    said = quoted(str(error))
    if error.errno:
        return StorageError(f"{what}: {(error.strerror or said).lower()}")
    return NetworkError(f"{what}: did not arrive whole ({said})")


def _unread(what: object, error: Exception) -> NetworkError:
    """An exception from the client's own code, which could not process an answer."""
    said = f"{type(error).__name__}: {quoted(str(error))}"
    return NetworkError(f"{what}: not the answer of a Hub ({said})")


def _is_of_client(error: Exception) -> bool:
    """Whether the client's code raised it while it processed an answer; else the fault is ours."""
    packages = [
        frame.f_globals.get("__name__", "").partition(".")[0]
        for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    known = [package for package in packages if package == "loratools" or package in _CLIENT]
    return known[-1] in _CLIENT


def _unlocated(what: object, error: Exception) -> HubError | NetworkError:
    """The client could not ask for a file's address; the exception's cause says why."""
    if is_offline():
        return NetworkError(
            f"{what}: offline, and not in the cache",
            hint=fetching_once(),
        )
    cause = error.__cause__
    if isinstance(cause, HfHubHTTPError):
        return _refusal(what, cause)
    reason = f" ({quoted(str(cause))})" if cause is not None else ""
    return NetworkError(f"{what}: the Hub cannot be reached, or does not answer as one{reason}")


def _refusal(what: object, error: HfHubHTTPError) -> HubError | NetworkError:
    status = error.response.status_code
    if isinstance(error, RevisionNotFoundError):
        return HubError(f"{what}: the repository has no such revision")
    if isinstance(error, RepositoryNotFoundError):
        return HubError(f"{what}: {_missing()}")
    if status == 412:
        return ConflictError(f"{what}: has changed meanwhile")
    said = f" ({quoted(error.server_message)})" if error.server_message else ""
    # To a caller without a token the Hub answers 401 for a repository that does not exist, too.
    if status == 401 and token() is None:
        return HubError(f"{what}: {_missing()}")
    if status == 401:
        return HubError(f"{what}: the token is not valid{said}", hint="see HF_TOKEN")
    if status == 403:
        return HubError(f"{what}: the token has no right to this{said}")
    if status in _BUSY:
        return NetworkError(
            f"{what}: the Hub is busy or broken (status {status}){said}", hint="try again"
        )
    return HubError(f"{what}: refused with status {status}{said}")


def _missing() -> str:
    if token() is None:
        return "no such repository, or a private one; give a token in HF_TOKEN"
    return "no such repository, or a private one that the token may not see"


#: How an exception is reported: by the first row that matches, since classes inherit.
_SAYINGS: tuple[tuple[type | tuple[type, ...], Callable[[object, Any], Exception]], ...] = (
    (LoratoolsError, lambda what, error: error),  # our hooks raise it in a thread of the client
    (GatedRepoError, _gated),
    ((OfflineModeIsEnabled, LocalEntryNotFoundError), _unlocated),
    (EntryNotFoundError, _absent),
    (HfHubHTTPError, _refusal),
    ((httpx2.HTTPError, httpx2.InvalidURL, ConnectionError), _unreached),
    (OSError, _broken),
)

# At its usual level the client would quote a file of tokens that it cannot parse.
logging.set_verbosity(logging.CRITICAL)
# Whoever wants a bar has ours; the client's would be drawn with `--quiet` and with `--json` too.
if constants.HF_HUB_DISABLE_PROGRESS_BARS is None:
    disable_progress_bars()
