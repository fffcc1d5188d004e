"""JSON that other readers may take for something else is refused."""

import math
import re
from pathlib import Path

import pytest

import loratools
from loratools.errors import FormatError, NonFiniteError
from loratools.io.json import encode_json, json_text, parse_json, parse_json_object


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b'{"a": 1, "a": 1}', "the key 'a' appears twice"),
        (rb'{"a": 1, "\u0061": 1}', "the key 'a' appears twice"),
        (b'[{"b": {"a": 1, "a": 1}}]', "the key 'a' appears twice"),
        (b"[NaN]", "NaN is not JSON"),
        (b"[Infinity]", "Infinity is not JSON"),
        (b'"\xff"', "not UTF-8 (byte 1)"),
        (rb'"\ud800"', "half a surrogate pair is no character"),
        (rb'{"\udc00": 1}', "half a surrogate pair is no character"),
        (rb'"\ude00\ud83d"', "half a surrogate pair is no character"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b"[" * 100_000, "more than 100 deep"),
        (b"[" * 101 + b"]" * 101, "more than 100 deep"),
        (b'{"a": ' * 101 + b"1" + b"}" * 101, "more than 100 deep"),
        (b"[[1], [" + b"[2, [" * 50 + b"]]" * 50 + b"]]", "more than 100 deep"),
        (b'["]",' * 101 + b"1" + b',"["]' * 101, "more than 100 deep"),
        (b'{"}":' * 101 + b"1" + b',"{":1}' * 101, "more than 100 deep"),
        (b"9" * 5000, f"the number {'9' * 10}…{'9' * 10} is beyond what a float64 can hold"),
        (b"[1e400]", "the number 1e400 is beyond what a float64 can hold"),
        (b"[-1e400]", "the number -1e400 is beyond"),
        (b"[1e-400]", "the number 1e-400 is smaller than any of float64's, but 0"),
        (b"[-0.002E-999]", "the number -0.002E-999 is smaller"),
        (b"[1" + b"0" * 400 + b"]", "is beyond"),
        (str(2**1024).encode(), "is beyond"),
        (b"", "not valid JSON"),
        (b"{} {}", "not valid JSON"),
    ],
)
def test_text_of_two_meanings_is_refused(text: bytes, says: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_json(text, "some.json")
    assert str(caught.value).startswith("some.json: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [b"[" * 100 + b"]" * 100, b'{"a": [' * 50 + b"1" + b"]}" * 50, b'["' + b"[{" * 999 + b'"]'],
)
def test_a_hundred_levels_are_read_and_brackets_in_a_text_are_none(text: bytes) -> None:
    assert encode_json(parse_json(text, "some.json"))


@pytest.mark.parametrize("text", [b"[]", b"null", b"1", b'"a"'])
def test_an_object_is_no_other_value(text: bytes) -> None:
    """The value is shown as it is in the file, and not in Python's words."""
    with pytest.raises(FormatError) as caught:
        parse_json_object(text, "some.json")
    assert str(caught.value) == f"some.json: must be a JSON object, is {text.decode()}"


def test_a_whole_pair_of_surrogates_is_a_character() -> None:
    assert parse_json(rb'"\ud83d\ude00"', "some.json") == "\N{GRINNING FACE}"


def test_minus_zero_keeps_its_sign() -> None:
    """As to readers for whom it is a float: so it is no size of a tensor."""
    assert [type(value) for value in parse_json(b"[-0, 0, -1]", "some.json")] == [float, int, int]


@pytest.mark.parametrize("number", [2**53 + 1, -(2**64), 10**308, 1.7976931348623157e308, 5e-324])
def test_a_number_that_is_read_is_written_exactly(number: float) -> None:
    assert parse_json(encode_json([number]), "some.json") == [number]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_does_not_have_is_not_written(number: float) -> None:
    with pytest.raises(NonFiniteError, match="a NaN or an infinity"):
        encode_json({"a": [number]})
    with pytest.raises(NonFiniteError, match="a NaN or an infinity"):
        json_text(number)


def test_a_text_that_is_not_unicode_is_named_and_not_written() -> None:
    """A path may be such a text."""
    with pytest.raises(FormatError, match=r"model\\udcff': not Unicode"):
        encode_json({"base": "model\udcff"})


def test_all_json_of_the_package_is_made_in_one_place() -> None:
    """So that nothing else than JSON can be written or read."""
    package = Path(loratools.__file__).parent
    users = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"^\s*(import json|from json )", path.read_text(), re.MULTILINE)
    ]
    assert users == ["io/json.py"]


def test_written_json_reads_the_same() -> None:
    value = {"b": [1, 2.5, None, True], "a": "ä\n\N{GRINNING FACE}"}
    text = encode_json(value)
    assert parse_json(text, "some.json") == value
    assert text.endswith(b"}\n")
    assert "ä" in text.decode()
