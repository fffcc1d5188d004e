"""The adapter in a bundle, as all adapters are that are opened, and as those in memory are."""

from collections.abc import Mapping
from dataclasses import replace

from loratools.adapter import Adapter
from loratools.formats import decode
from loratools.io.bundle import Bundle
from loratools.io.source import named
from loratools.traps import doubts


def decoded(
    bundle: Bundle, options: Mapping[str, str] | None = None, *, beside: tuple[str, ...] = ()
) -> Adapter:
    """The adapter in a bundle, with notes on what is doubtful.

    `beside` are other files of weights in its folder. Whoever opens it adds what saves it.

    Raises:
        LoratoolsError: see `loratools.formats.decode`.
    """
    adapter = replace(decode(bundle, options), beside=beside)
    return replace(adapter, notes=(*adapter.notes, *doubts(adapter)))


def as_read_back(bundle: Bundle) -> Adapter:
    """The adapter that would be read from the files of a bundle if they were written.

    Its tensors are computed when they are read, and have the keys that they would have in the file.
    """
    tensors = {key: named(source, key) for key, source in bundle.tensors.items()}
    return decoded(replace(bundle, tensors=tensors))
