"""What a user may say of home-made keys, and what is refused before anything is read."""

from pathlib import Path

import pytest

from loratools.errors import FormatError, OptionError
from loratools.formats import check_options
from loratools.formats.described.description import parse

PAIR = "up={target}.B down={target}.A"


def test_target_is_the_whole_rest_of_a_key() -> None:
    description = parse("up=net.{target}.B down={target}.A alpha=alphas/{target}")
    assert description.split("net.a.b.B") == ("a.b", "up")
    assert description.split("x.net.a.A") == ("x.net.a", "down")
    assert description.split("alphas/a.0") == ("a.0", "alpha")
    for other in ("net.a.B.weight", "a.B", "net..A2", ".A", "net.B", "alphas/"):
        assert description.split(other) is None


def test_key_that_fits_two_patterns_is_an_error() -> None:
    description = parse("up={target}.up down={target}.down alpha=a.{target}")
    assert description.split("b.up") == ("b", "up")
    with pytest.raises(FormatError, match=r"a\.b\.up: fits up={target}\.up, alpha=a\.{target}; ma"):
        description.split("a.b.up")


def test_text_of_a_description_is_the_same_description() -> None:
    text = "up.T={target} of B\ndown={target}.A\nmagnitude=m.{target}\nbase={target}.layer"
    assert str(parse(text)) == text
    assert parse(text.replace("\n", "  ")) == parse(text)
    assert parse(text).transposed == {"up"}


def test_yaml_file_says_the_same_as_the_options(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text('up: "{target}.B"\ndown.T: "{target}.A"\nbase: "{target}.layer"\n')
    assert parse(str(file)) == parse("up={target}.B down.T={target}.A base={target}.layer")
    check_options({"keys": str(file)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("up={target}.B down=A", "down=A has {target} 0 times; once it stands for"),
        ("up={target}.{target} down={target}.A", "up={target}.{target} has {target} 2 times"),
        ("up={target}.B up={target}.C down={target}.A", "up has two patterns, {target}.B and"),
        ("up={target}.B up.T={target}.C down={target}.A", "up has two patterns"),
        ("up={target}.B down={target}.B", "up and down have the same pattern, {target}.B"),
        (f"{PAIR} scalar={{target}}.s", "'scalar' is no part of an update; there are up, down, m"),
        (f"{PAIR} scale={{target}}.s", "scale is a number, not '{target}.s'"),
        (f"{PAIR} scale=inf", "scale is a number, not 'inf'"),
        (f"{PAIR} mid.T={{target}}.M", "'mid.T' is no part of an update"),
        ("up={target}.B", "no pattern for down, as down={target}"),
        ("base={target}.layer", "no pattern for up, down"),
        ("{target}.B", "'{target}.B' is neither PART=PATTERN nor a .yaml file"),
        ("", "'' is neither"),
        ("nothing.yaml", "nothing.yaml: no such file"),
    ],
)
def test_description_that_means_nothing_is_refused_as_an_option(text: str, message: str) -> None:
    with pytest.raises(OptionError) as raised:
        check_options({"keys": text})
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("up: {target}.B", "not YAML: "),
        ("scale: [2]", "'scale' is a list and no pattern"),
        ("up: {target}", "'up' is a dict and no pattern; a pattern is quoted"),
        ("[up, down]", "not a list of parts with patterns"),
        ("- !!python/object:os.system x", "not YAML"),
        ("\x00", "not YAML"),
        ("[" * 3000, "not YAML"),
        ("#" * 1_000_001, "1000001 bytes are no description"),
    ],
    ids=range(8),
)
def test_yaml_file_of_something_else_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "keys.yml"
    file.write_text(text)
    with pytest.raises(OptionError) as raised:
        parse(str(file))
    assert f"{file}: {message}" in str(raised.value)
