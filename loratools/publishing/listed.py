"""What a pull is to fetch: chosen by listings alone, and a base by the config that names it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from loratools.errors import HubError, UnsupportedError, shorten
from loratools.files.finding import adapter_files, base_files, config_among, is_model, is_pickle
from loratools.files.manifest import is_overlay, overlay_files
from loratools.formats import adapter_configs, dialects
from loratools.hub.names import HubName
from loratools.io.folder import read_json

if TYPE_CHECKING:
    from loratools.hub.folder import HubFolder
    from loratools.hub.lock import Lock

#: Prefixes of the names of files that tell about an adapter.
_ABOUT = ("README", "LICENSE", "LICENCE", "NOTICE")


@final
@dataclass(frozen=True)
class Listed:
    """A folder on the Hub, and the names of the files in it that are to be fetched."""

    source: "HubFolder"
    names: Sequence[str]

    @property
    def nbytes(self) -> int:
        """The size of these files in bytes."""
        return sum(self.source.listed(name).size for name in self.names)


def listed(name: HubName, lock: "Lock | None", variant: str | None) -> Listed:
    """What a name stands for, at the locked commit if the lock has one: no file is fetched.

    Raises:
        HubError, NetworkError: it cannot be resolved or listed, or has nothing that can be pulled.
        UnsupportedError: there is a pickle among the files.
    """
    from loratools.hub.folder import hub_place

    folder, file = hub_place(lock.pinned(name) if lock is not None else name)
    return Listed(folder, _wanted(folder, file, variant))


def base_of(adapter: Listed, lock: "Lock | None") -> HubName:
    """The name of an adapter's base, in its config, which alone is fetched for that.

    Raises:
        HubError: there is no config, or it names no base on the Hub; or has other bytes than the
            lock says.
    """
    from loratools.hub.verified import sha256

    folder, config = adapter.source, config_among(adapter.names)
    where = folder.where
    if config is None:
        wanted = " or ".join(adapter_configs())
        raise HubError(f"{where}: has no {wanted}, which would name its base")
    file = folder.open(config)
    if lock is not None:
        lock.check_bytes(folder.repository, {f"{folder.inside}{config}": sha256(file.path)})
    name, revision = _named_base(config, read_json(file))
    try:
        found = HubName.parse(f"hf://{name}")
    except HubError:
        raise HubError(
            f"{where}/{config}: its base is {shorten(str(name))!r}, which is no owner/name on the "
            f"Hub"
        ) from None
    return HubName(found.repo, revision if isinstance(revision, str) else None)


def _wanted(folder: "HubFolder", file: str | None, variant: str | None) -> list[str]:
    names = folder.names()
    about = [name for name in names if name.startswith(_ABOUT)]
    if is_overlay(folder):
        return sorted({*overlay_files(folder), *about})
    is_base = is_model(folder)
    if is_base:
        found = base_files(folder, file, companions=True, variant=variant)
    else:
        found = adapter_files(folder, file)
    pickles = [name for name in found if is_pickle(name)]
    if pickles:
        raise UnsupportedError(
            f"{folder.where}/{shorten(pickles[0])}: a pickle, which can run code when it is "
            f"read, and none is fetched"
        )
    return sorted({*found, *about})


def _named_base(config: str, fields: Mapping[str, Any]) -> tuple[object, object]:
    """The base's name and revision in a config, in the fields that its dialect has for them."""
    for dialect in dialects():
        name = dialect.base_field
        if dialect.config == config and name is not None and name in fields:
            return fields[name], fields.get(dialect.revision_field or "")
    return None, None
