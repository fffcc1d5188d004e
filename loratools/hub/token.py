"""The access token: checked before it is sent, and shown nowhere.

The client reads it from the environment or from a file that a login has written, and does not check
it: characters that no header can have would end in an error that quotes the token.
"""

import base64
import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx2
from huggingface_hub import constants, get_token
from huggingface_hub.errors import OIDCError

from loratools.errors import HubError, LoratoolsError, shorten
from loratools.io.failures import storage_errors
from loratools.io.small import read_small

_LONGEST_SAYING = 200
_LONGEST_FILE = 2**20
_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
#: The visible ASCII characters, which RFC 9110 lets a header carry.
_PRINTABLE = re.compile(r"[!-~]+")


def token() -> str | None:
    """The token that the client sends; None where there is none.

    Raises:
        HubError: it has characters that no token has, or the environment asks for a token by
            HF_OIDC_RESOURCE and none can be got.
        FormatError: its file is a folder, a pipe or a device, or has more than a mebibyte.
        StorageError: its file cannot be read.
    """
    file = Path(constants.HF_TOKEN_PATH)
    variable = next((name for name in _VARIABLES if os.environ.get(name, "").strip()), None)
    if variable is None:  # else the client does not look into its files
        _check_files(file)
    with storage_errors(file):
        try:
            found = get_token()
        except (OIDCError, httpx2.HTTPError) as error:
            raise HubError(f"HF_OIDC_RESOURCE: no token: {shorten(str(error))}") from None
        except UnicodeDecodeError:
            raise _no_token(variable or str(file)) from None
    if found is not None and not _PRINTABLE.fullmatch(found):
        raise _no_token(variable or str(file))
    return found


def _check_files(file: Path) -> None:
    """Refuse token files on which the client would wait or fail: pipes, devices, other text."""
    for path in (file, Path(constants.HF_STORED_TOKENS_PATH)):
        with storage_errors(path):
            is_there = path.exists()
        text = read_small(path, _LONGEST_FILE) if is_there else b""
        if path == file and not text.isascii():
            raise _no_token(str(file))


def _no_token(source: str) -> HubError:
    return HubError(
        f"{source}: not a token, which has letters, digits and signs of ASCII only",
        hint="set it anew",
    )


def quoted(text: str) -> str:
    """A server's text for a message: redacted, then shortened, as half a token is not found."""
    return shorten(redacted(text.strip()), _LONGEST_SAYING)


def redacted(text: str) -> str:
    """`text` without the token, and without users and passwords in addresses."""
    for secret in _secrets():
        text = text.replace(secret, "hf_…")
    return without_user(text)


def _secrets() -> list[str]:
    """The token, and the password in the endpoint's address, in each form a server may echo."""
    endpoint = urlsplit(constants.ENDPOINT)
    user, password = endpoint.username or "", endpoint.password or ""
    pair = f"{unquote(user)}:{unquote(password)}"
    basic = base64.b64encode(pair.encode()).decode() if endpoint.password else ""
    try:
        known = token()
    except LoratoolsError:  # then it has never been sent
        known = None
    return [secret for secret in (known, basic, password, unquote(password)) if secret]


def without_user(text: str) -> str:
    """`text` without the users and passwords that stand before an address's host."""
    return re.sub(r"(?<=://)[^/\s]*@", "", text)
