"""The only module that uses the network: huggingface_hub's client, made strict.

Added to it are retries where a repeat is safe, and errors of one line that never show a token.
"""

import base64
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import httpx2
from huggingface_hub import (
    HfApi,
    constants,
    get_token,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (
    disable_progress_bars,
    logging,
)

import loratools
from loratools.errors import HubError, NetworkError, StorageError, shorten

T = TypeVar("T")

DEFAULT_REVISION = constants.DEFAULT_REVISION

_ATTEMPTS = 5
_LONGEST_WAIT_SECONDS = 60.0
_BUSY = frozenset({429, 500, 502, 503, 504})
_LONGEST_SAYING = 200


def api() -> HfApi:
    """The client, for the endpoint and the token that the environment names."""
    return HfApi(library_name="loratools", library_version=loratools.__version__)


def cache_folder() -> Path:
    """Where the client keeps what it has fetched."""
    return Path(constants.HF_HUB_CACHE)


def home_folder() -> Path:
    """Where programs that use the Hub keep what is theirs."""
    return Path(constants.HF_HOME)


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    return constants.is_offline_mode()


def asked(where: object, call: Callable[[HfApi], T]) -> T:
    """What the Hub answers, asked again where that may help; for what may be asked twice.

    Raises:
        HubError, NetworkError, StorageError: see `hub_errors`.
    """
    with hub_errors(where):
        return _retrying(lambda: call(api()))


class UnansweredError(NetworkError):
    """The Hub may have done what it was asked, or not: its answer did not arrive."""


class ConflictError(HubError):
    """The head is not what it was."""


def _retrying(call: Callable[[], T]) -> T:
    """What `call` returns; it is repeated, with growing pauses, where the Hub is busy or gone."""
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
    # The client's own errors have no number: of a file that came in another size, for one.
    return not isinstance(error, OSError) or isinstance(error, ConnectionError) or not error.errno


def _retry_after(error: Exception) -> float | None:
    if not isinstance(error, HfHubHTTPError):
        return None
    value = error.response.headers.get("Retry-After", "")
    return min(float(value), _LONGEST_WAIT_SECONDS) if value.isdecimal() else None


@contextmanager
def hub_errors(what: object) -> Iterator[None]:
    """Turn what the client raises into an error that says what was asked for and what to do.

    Raises:
        HubError: there is no such thing, or it may not be seen or written.
        NetworkError: the Hub cannot be reached, or does not answer as it should.
        StorageError: the cache cannot be written.
    """
    try:
        yield
    except GatedRepoError as error:
        place = f"{constants.ENDPOINT}/{error.repo_id}" if error.repo_id else "its page"
        raise HubError(
            f"{what}: gated; accept its conditions on {_without_user(place)}, and give a token of "
            f"that account in HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise HubError(f"{what}: the repository has no such revision") from None
    except RepositoryNotFoundError:
        raise HubError(f"{what}: {_missing()}") from None
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        raise _unlocated(what, error) from None
    except EntryNotFoundError:
        raise HubError(f"{what}: the repository has no such file") from None
    except HfHubHTTPError as error:
        raise _refusal(what, error) from None
    except (httpx2.HTTPError, ConnectionError) as error:
        reason = quoted(str(error)) or type(error).__name__
        raise NetworkError(f"{what}: the Hub cannot be reached ({reason})") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise _broken(what, error) from None


def _broken(what: object, error: Exception) -> StorageError:
    """Of the disk, if the system gave it a number; else of an answer that the client choked on."""
    said = quoted(str(error))
    if isinstance(error, OSError) and error.errno:
        return StorageError(f"{what}: {(error.strerror or said).lower()}")
    if isinstance(error, OSError):
        return NetworkError(f"{what}: did not arrive whole ({said})")
    return NetworkError(f"{what}: not the answer of a Hub ({type(error).__name__}: {said})")


def _unlocated(what: object, error: Exception) -> HubError | NetworkError:
    """The client could not learn where a file is; it tells why in the error before."""
    if is_offline():
        return NetworkError(f"{what}: offline, and not in the cache")
    cause = error.__cause__
    if isinstance(cause, HfHubHTTPError):
        return _refusal(what, cause)
    reason = f" ({quoted(str(cause))})" if cause is not None else ""
    return NetworkError(f"{what}: the Hub cannot be reached, or does not answer as one{reason}")


def _refusal(what: object, error: HfHubHTTPError) -> HubError | NetworkError:
    status = error.response.status_code
    if status == 412:
        return ConflictError(f"{what}: has changed meanwhile")
    said = f" ({quoted(error.server_message)})" if error.server_message else ""
    if status == 401 and get_token() is None:
        return HubError(f"{what}: {_missing()}")
    if status == 401:
        return HubError(f"{what}: the token is not valid{said}; see HF_TOKEN")
    if status == 403:
        return HubError(f"{what}: the token has no right to this{said}")
    if status in _BUSY:
        return NetworkError(f"{what}: the Hub is busy or broken (status {status}){said}; try again")
    return HubError(f"{what}: refused with status {status}{said}")


def _missing() -> str:
    if get_token() is None:
        return "no such repository, or a private one: give a token in HF_TOKEN"
    return "no such repository, or a private one that the token may not see"


def quoted(text: str) -> str:
    """What somebody else says: redacted first, since half a token cannot be found any more."""
    return shorten(redacted(text.strip()), _LONGEST_SAYING)


def redacted(text: str) -> str:
    """`text` without the token, and without a user and a password in an address."""
    for secret in _secrets():
        text = text.replace(secret, "hf_…")
    return _without_user(text)


def _secrets() -> list[str]:
    """The token, and what the endpoint's address has in its place, as it may be echoed."""
    endpoint = urlsplit(constants.ENDPOINT)
    user, password = endpoint.username or "", endpoint.password or ""
    pair = f"{unquote(user)}:{unquote(password)}"
    basic = base64.b64encode(pair.encode()).decode() if endpoint.password else ""
    return [secret for secret in (get_token(), basic, password, unquote(password)) if secret]


def _without_user(text: str) -> str:
    return re.sub(r"(?<=://)[^/\s]*@", "", text)


logging.set_verbosity(logging.ERROR)
if not sys.stderr.isatty():
    disable_progress_bars()
