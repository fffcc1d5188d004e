"""Messages are one line that can be printed, whatever the names in them."""

import importlib
import pickle
import pkgutil
import re
from collections.abc import Iterator

import pytest

import loratools
from loratools import errors
from loratools.errors import FormatError, LoratoolsError, StorageError, about, listing, shorten

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


def test_an_error_keeps_its_parts_in_another_process_and_inside_of_a_larger_thing() -> None:
    name = "layer." * 60
    error = FormatError(f"{shorten(name)}: is odd", tensor=name, hint="see\nthere")
    assert str(error) == f"{shorten(name)}: is odd; see\\nthere"
    again = pickle.loads(pickle.dumps(error))
    assert parts(again) == (str(error), None, name, "see\\nthere")
    assert parts(error.within("x y")) == (f"x y: {error}", "x y", name, "see\\nthere")
    whole = FormatError("is odd", hint="do").within("x", name)
    assert parts(whole) == (f"x: {shorten(name)}: is odd; do", "x", name, "do")


def parts(error: LoratoolsError) -> tuple[str, str | None, str | None, str | None]:
    return str(error), error.file, error.tensor, error.hint


def test_what_follows_the_last_semicolon_of_a_message_is_its_hint() -> None:
    assert parts(FormatError("a; b; c", file="a")) == ("a; b; c", "a", None, "c")
    assert parts(FormatError("a")) == ("a", None, None, None)


def test_the_name_around_some_work_is_noted_in_an_error_that_says_it() -> None:
    for message, own, noted in (
        ("m.a: is odd", None, "m.a"),
        ("m.a: is odd, and m.a.up", "m.a.up", "m.a.up"),
        ("m.b: is odd", None, None),
    ):
        with pytest.raises(FormatError) as caught, about("m.a"):
            raise FormatError(message, tensor=own)
        assert caught.value.tensor == noted


def test_listing_and_shortening_keep_both_ends() -> None:
    assert listing("abcdef", limit=2) == "a, b and 4 more"
    assert shorten("a" * 100 + "b" * 100, limit=10) == "aaaaa…bbbbb"


def subclasses(kind: type[LoratoolsError]) -> Iterator[type[LoratoolsError]]:
    """Those that the package defines, in any of its modules."""
    for inner in kind.__subclasses__():
        if inner.__module__.partition(".")[0] == "loratools":
            yield inner
            yield from subclasses(inner)


def test_every_error_is_defined_beside_the_others_and_in_the_tree_of_their_docstring() -> None:
    for module in pkgutil.walk_packages(loratools.__path__, "loratools."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found = {c.__name__: c.__bases__[0].__name__ for c in subclasses(LoratoolsError)}
    assert {c.__module__ for c in subclasses(LoratoolsError)} == {"loratools.errors"}
    assert found == dict(tree(errors.__doc__ or ""))


def tree(text: str) -> Iterator[tuple[str, str]]:
    """Each class of a drawn tree, and the one that it is a branch of."""
    above = {0: "LoratoolsError"}
    for branch in re.finditer(r"^([│ ]*)[├└]── (\w+)", text, re.MULTILINE):
        depth = len(branch[1]) // 4
        yield branch[2], above[depth]
        above[depth + 1] = branch[2]


def test_a_semicolon_in_a_path_begins_no_hint() -> None:
    assert StorageError("a; b.bin: input/output error").hint is None
    assert StorageError("a; b.bin: is full; make room").hint == "make room"
    assert StorageError("nothing to do; name an adapter").hint == "name an adapter"
