"""Notes on the options of a command that an adapter has no use for."""

from collections.abc import Iterator, Mapping, Sequence

from loratools.adapter import Adapter
from loratools.formats._dialect import ALPHA, Dialect
from loratools.parts import Note
from loratools.typed import as_typed

#: What was probably meant by a number that says how to read the files.
_OF_STRENGTH = "; the strength of an adapter is its weight in a merge, or set by rescale"


def unused_options(
    adapter: Adapter, dialect: Dialect, given: Mapping[str, str], dialects: Sequence[Dialect]
) -> Iterator[Note]:
    """Notes on the options that were given and did not change how `adapter` was read.

    An option that decides on the dialect may speak of the base alone.
    """
    options = dict.fromkeys(option for other in dialects for option in other.options)
    for option in options:
        value = given.get(option.name, option.default)
        if option.decides or value == option.default:
            continue
        unused = f"{as_typed(option.name)} {value} is not used"
        if option not in dialect.options:
            owners = [other.name for other in dialects if option in other.options]
            formats = "the format" if len(owners) == 1 else "the formats"
            yield Note(
                "info",
                f"{unused}: it is for {formats} {' and '.join(owners)}, and this adapter is in the "
                f"format {dialect.name}{_OF_STRENGTH if option.number else ''}",
            )
        elif option == ALPHA and "option" not in adapter.alpha_from:
            yield Note("info", f"{unused}: the files say the alpha{_OF_STRENGTH}")
