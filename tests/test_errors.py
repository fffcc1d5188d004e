"""Messages are one line that can be printed, whatever the names in them."""

import pickle

import pytest

from loratools import errors
from loratools.errors import FormatError, LoratoolsError, listing, shorten

CLASSES = [
    c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, LoratoolsError)
]


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("name", ["two\nlines", "\x1b[2J", "\u202egnp", "\udc80", "\x00"])
def test_name_in_a_message_cannot_move_the_cursor(kind: type[LoratoolsError], name: str) -> None:
    message = str(kind(f"{name}: is malformed"))
    assert message.isprintable()
    assert message.isascii()
    assert message.endswith(": is malformed")


def test_printable_message_is_left_as_it_is() -> None:
    assert str(FormatError("naïve «×» 模型\\n")) == "naïve «×» 模型\\n"


def test_error_can_be_sent_to_another_process() -> None:
    error = FormatError("a\nb")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (FormatError, "a\\nb")


def test_listing_and_shortening_keep_both_ends() -> None:
    assert listing("abcdef", limit=2) == "a, b and 4 more"
    assert shorten("a" * 100 + "b" * 100, limit=10) == "aaaaa…bbbbb"
