"""JSON that other readers may take for something else is refused."""

import pytest

from loratools.errors import FormatError
from loratools.io.json import encode_json, parse_json, parse_json_object


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
        (b"[" * 100_000, "not valid JSON: maximum recursion depth"),
        (b"9" * 5000, "not valid JSON"),
        (b"", "not valid JSON"),
        (b"{} {}", "not valid JSON"),
    ],
)
def test_text_of_two_meanings_is_refused(text, says):
    with pytest.raises(FormatError) as caught:
        parse_json(text, "some.json")
    assert str(caught.value).startswith("some.json: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [b"[]", b"null", b"1", b'"a"'])
def test_an_object_is_no_other_value(text):
    with pytest.raises(FormatError, match="must be a JSON object, is "):
        parse_json_object(text, "some.json")


def test_a_whole_pair_of_surrogates_is_a_character():
    assert parse_json(rb'"\ud83d\ude00"', "some.json") == "\N{GRINNING FACE}"


def test_minus_zero_keeps_its_sign():
    """As to readers for whom it is a float: so it is no size of a tensor."""
    assert [type(value) for value in parse_json(b"[-0, 0, -1]", "some.json")] == [float, int, int]


def test_written_json_reads_the_same():
    value = {"b": [1, 2.5, None, True], "a": "ä\n\N{GRINNING FACE}"}
    text = encode_json(value)
    assert parse_json(text, "some.json") == value
    assert text.endswith(b"}\n")
    assert "ä" in text.decode()
