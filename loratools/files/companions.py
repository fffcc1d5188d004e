"""The files that are written beside merged weights: the base's, and those that adapters bring.

A whole tokenizer of an adapter replaces the base's whole tokenizer; only for a vocabulary that
comes without settings may the base's settings stay. Files that are not a whole tokenizer replace
the files of the same names, and the rest of the base's tokenizer stays.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from loratools.adapter import Adapter
from loratools.errors import listing
from loratools.files.beside import of_model
from loratools.files.tokenizers import Joined, join, note_replaced, staying
from loratools.io.checkpoint import Checkpoint
from loratools.io.companions import (
    Companion,
    has_tokenizer,
    is_template,
    is_tokenizers,
    same_content,
)
from loratools.io.file import InputFile
from loratools.io.folder import LocalFolder, read_json
from loratools.io.json import parse_json_object
from loratools.io.publish import Staging

_CARD = "README.md"


@final
@dataclass(frozen=True)
class Companions:
    """The files beside the output's weights, by name, copied or generated; and notes about them.

    `left_out` names the files and folders of the base that do not belong to its weights. A base
    that is a single file has no companions.
    """

    is_folder: bool
    copied: Mapping[str, InputFile]
    made: Mapping[str, bytes]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """The total size of all companions in bytes."""
        return sum(file.size for file in self.copied.values()) + sum(map(len, self.made.values()))

    def having(self, made: Mapping[str, bytes]) -> "Companions":
        """These companions, with files that the merge generated in place of the base's.

        A base that is a single file still has none.
        """
        if not self.is_folder:
            return self
        copied = {name: file for name, file in self.copied.items() if name not in made}
        return replace(self, copied=copied, made={**self.made, **made})

    def read_json(self, name: str) -> Mapping[str, Any]:
        """The JSON object in the companion `name`; empty if there is no such companion.

        Raises:
            FormatError: the file is not a JSON object.
            StorageError: the file cannot be read.
        """
        if name in self.made:
            return parse_json_object(self.made[name], name)
        return read_json(self.copied[name]) if name in self.copied else {}

    def write(self, staging: Staging, inside: str = "") -> None:
        """Write all companions into the staging folder, or into a folder `inside` it."""
        for name, file in self.copied.items():
            staging.copy_file(f"{inside}{name}", file)
        for name, data in self.made.items():
            staging.write_file(f"{inside}{name}", data)


def companions(base: Checkpoint, adapters: Sequence[Adapter]) -> Companions:
    """The files to write beside the merged weights.

    Raises:
        FormatError: one of the files is a link, or not a regular file.
        StorageError: one of the files, or a folder of the base, cannot be read.
    """
    if not base.is_folder or base.path is None:
        return Companions(False, {}, {})
    found, left_out = _of_base(base, base.path)
    tokenizer = {name: file for name, file in found.items() if is_tokenizers(name)}
    joined = _joined(tokenizer, adapters)
    brought = {c.name: c for a in adapters for c in a.companions if not is_tokenizers(c.name)}
    notes = [
        *_note_others(adapters),
        *joined.notes(),
        *note_replaced(tokenizer, joined),
        *(f"{name}: that of the adapter" for name in _differing(found, brought)),
    ]
    others = {name: file for name, file in found.items() if not is_tokenizers(name)}
    copied = {**others, **brought, **joined.copied}
    checked = {name: copied[name].open() for name in sorted(copied)}
    return Companions(True, checked, joined.made, tuple(left_out), tuple(notes))


def changed_companions(beside: Companions, base: Checkpoint) -> Companions:
    """Of the files beside an output, those that are not the base's; all of a changed tokenizer.

    Raises:
        StorageError: a file cannot be read.
    """
    if base.path is None or not base.is_folder:
        return beside
    own, _ = _of_base(base, base.path)
    changed = {*beside.made}
    changed |= {name for name, file in beside.copied.items() if not _is_same(file, own.get(name))}
    if any(map(is_tokenizers, changed)):
        # Whole, so that it is never mixed with another tokenizer that a base may have got.
        changed |= {name for name in (*beside.copied, *beside.made) if is_tokenizers(name)}
    copied = {name: file for name, file in beside.copied.items() if name in changed}
    return replace(beside, copied=copied, left_out=())


def laid_over(found: Mapping[str, Companion], base: Checkpoint) -> dict[str, Companion]:
    """A base's own companions and those of its overlays, whose tokenizer replaces it as a whole."""
    for overlay in base.overlays:
        brought = {companion.name: companion for companion in overlay.companions}
        if any(map(is_tokenizers, brought)):
            found = {name: file for name, file in found.items() if not is_tokenizers(name)}
        found = {**found, **brought}
    return dict(found)


def _of_base(base: Checkpoint, folder: Path) -> tuple[dict[str, Companion], list[str]]:
    """The companions of a base and its overlays, and the names of files that are left out."""
    written = {*(shard.name for shard in base.shards), *(c.index_name for c in base.components)}
    names = LocalFolder(folder, base.where).all_names()
    taken, left_out = of_model(n for n in names if n not in written and n not in base.unread)
    taken += base.unread
    found = {name: Companion(folder, name) for name in taken}
    # The base's model card describes the base, and not the result.
    if found.pop(_CARD, None) is not None:
        left_out = sorted([*left_out, _CARD])
    return laid_over(found, base), left_out


def _is_same(file: InputFile, own: Companion | None) -> bool:
    if own is None:
        return False
    opened = own.open()
    return file.path == opened.path or file.sha256() == opened.sha256()


def _joined(tokenizer: Mapping[str, Companion], adapters: Sequence[Adapter]) -> Joined:
    """The output's tokenizer: the base's, or the last whole one of an adapter, with additions."""
    added: dict[str, Companion] = {}
    for adapter in adapters:
        brought = {c.name: c for c in adapter.companions if is_tokenizers(c.name)}
        if has_tokenizer(brought, tokenizer):
            if kept := staying(tokenizer, brought):
                # Templates are added by `join`, which puts them wherever a reader may look.
                added = {name: brought.pop(name) for name in [*brought] if is_template(name)}
                tokenizer = {**kept, **brought}
            else:
                tokenizer, added = brought, {}
            continue
        if any(map(is_template, brought)):
            # A template has several possible files: a later one replaces the earlier in them all.
            added = {name: file for name, file in added.items() if not is_template(name)}
        added |= brought
    new = _differing(tokenizer, added)
    return join(tokenizer, {name: added[name] for name in new})


def _differing(found: Mapping[str, Companion], brought: Mapping[str, Companion]) -> list[str]:
    """The names of the brought files that are not among those found, or have other bytes."""
    return [n for n, f in brought.items() if n not in found or not same_content(found[n], f)]


def note_left_behind(adapters: Sequence[Adapter]) -> tuple[str, ...]:
    """Notes on files of later adapters that are not taken, since the first adapter's files are."""
    first = {companion.name: companion for companion in adapters[0].companions}
    others = {
        adapter.where: _differing(first, {c.name: c for c in adapter.companions})
        for adapter in adapters[1:]
    }
    return tuple(
        f"{where}: {listing(names)}: not as in {adapters[0].where}, and not taken"
        for where, names in others.items()
        if names
    )


def _note_others(adapters: Sequence[Adapter]) -> Iterator[str]:
    """Notes on files that differ between adapters: the later adapter's file is taken."""
    earlier: dict[str, tuple[Companion, str]] = {}
    for adapter in adapters:
        for companion in adapter.companions:
            first, where = earlier.get(companion.name, (companion, ""))
            if not same_content(first, companion):
                yield f"{companion.name}: {where} and {adapter.where} differ; the latter's is taken"
            earlier[companion.name] = companion, adapter.where
