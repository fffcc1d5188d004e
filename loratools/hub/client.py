"""The only module that uses the network: huggingface_hub's client, made strict.

Added to it are retries where a repeat is safe, a check of the ETags that name files in its cache,
and errors of one line that never show a token.
"""

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub import (
    HfApi,
    constants,
    get_token,
    set_client_factory,
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
    _http,
    disable_progress_bars,
    logging,
)

import loratools
from loratools.errors import HubError, NetworkError, StorageError

T = TypeVar("T")

DEFAULT_REVISION = constants.DEFAULT_REVISION

_ATTEMPTS = 5
_LONGEST_WAIT_SECONDS = 60.0
_BUSY = frozenset({429, 500, 502, 503, 504})
#: Of content: a SHA-1 or SHA-256 in quotes, perhaps marked weak. Others could name any path.
_ETAG = re.compile(r'(W/)?"?[0-9A-Za-z_-]+"?')


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
        except HfHubHTTPError as error:
            if error.response.status_code not in _BUSY:
                raise
            pause = _retry_after(error)
        except (httpx2.TransportError, ConnectionError) as error:
            if isinstance(error, OfflineModeIsEnabled):
                raise
            pause = None
        time.sleep(2.0**attempt if pause is None else pause)
    return call()


def _retry_after(error: HfHubHTTPError) -> float | None:
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
    except (OfflineModeIsEnabled, LocalEntryNotFoundError):
        reason = "offline, and not in the cache" if is_offline() else "the Hub cannot be reached"
        raise NetworkError(f"{what}: {reason}") from None
    except EntryNotFoundError:
        raise HubError(f"{what}: the repository has no such file") from None
    except HfHubHTTPError as error:
        raise _refusal(what, error) from None
    except (httpx2.HTTPError, ConnectionError) as error:
        reason = redacted(str(error)) or type(error).__name__
        raise NetworkError(f"{what}: the Hub cannot be reached ({reason})") from None
    except OSError as error:
        raise StorageError(f"{what}: {(error.strerror or redacted(str(error))).lower()}") from None


def _refusal(what: object, error: HfHubHTTPError) -> HubError | NetworkError:
    status = error.response.status_code
    if status == 412:
        return ConflictError(f"{what}: has changed meanwhile")
    said = f" ({redacted(error.server_message)})" if error.server_message else ""
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


def redacted(text: str) -> str:
    """`text` without the token, and without a user and a password in an address."""
    for token in filter(None, {get_token()}):
        text = text.replace(token, "hf_…")
    return _without_user(text)


def _without_user(text: str) -> str:
    return re.sub(r"(?<=://)[^/@\s]*@", "", text)


def _check_etag(response: httpx2.Response) -> None:
    for name in ("ETag", "X-Linked-Etag"):
        value = response.headers.get(name)
        if value is not None and _ETAG.fullmatch(value) is None:
            raise HubError(f"{_without_user(str(response.url))}: a malformed {name}")


def _client() -> httpx2.Client:
    client = _inner_factory()
    client.event_hooks = {
        **client.event_hooks,
        "response": [*client.event_hooks.get("response", []), _check_etag],
    }
    return client


#: The user's own, or the client's.
_inner_factory = _http._GLOBAL_CLIENT_FACTORY
set_client_factory(_client)
logging.set_verbosity(logging.ERROR)
if not sys.stderr.isatty():
    disable_progress_bars()
