"""Text folded to a width: between words, and in the names of modules after a dot or underscore."""

import re
from collections.abc import Iterator

from rich.cells import cell_len, chop_cells

#: Characters after which a line may end.
_ENDS = r"\s._/\-:@,;|+"
#: Scripts that are written without spaces: a line may end before and after each character.
_SPACELESS = "[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]"
#: The places where a line may end, which are not before another such character, nor in a number.
_PLACES = re.compile(
    rf"(?:(?<=[{_ENDS}])|(?<={_SPACELESS})|(?<=\S)(?={_SPACELESS}))"
    rf"(?![{_ENDS}\])}}])(?!(?<=[0-9][.,:])[0-9])(?!(?<=[0-9]e[+-])[0-9])"
)


def pieces(text: str) -> list[str]:
    """The parts of a text that stay whole: words, and the words of a name.

    >>> pieces("layers_0.q_proj, at 0.5")
    ['layers_', '0.', 'q_', 'proj, ', 'at ', '0.5']
    """
    return [piece for piece in _PLACES.split(text) if piece]


def width_of(text: str) -> int:
    """The number of columns that a text takes on a terminal, where some characters take two."""
    return cell_len(text)


def fold(text: str, width: int | None) -> list[str]:
    """The lines of a text, at most `width` wide; joined they are the text, but for spaces.

    Lines end between words; names that are wider than a line are divided into their pieces, and a
    piece that still is, anywhere, as there is nothing else to do.

    >>> fold("model.layers.*.self_attn.q_proj", 20)
    ['model.layers.*.self_', 'attn.q_proj']
    """
    if width is None or width_of(text) <= width:
        return [text]
    lines = [""]
    for part in _parts(text, width):
        if width_of(lines[-1] + part.rstrip()) <= width:
            lines[-1] += part
        elif width_of(part.rstrip()) <= width:
            lines.append(part)
        else:
            lines += chop_cells(part, width)
    return [line.rstrip() for line in lines if line]


def _parts(text: str, width: int) -> Iterator[str]:
    """The words between spaces; of those that are wider than a line, the pieces."""
    for word in re.findall(r"\s*\S+\s*", text):
        yield from [word] if width_of(word.rstrip()) <= width else pieces(word)
