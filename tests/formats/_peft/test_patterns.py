"""Patterns mean what PEFT's rules and `re` make of them, and cost what names should cost."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loratools.errors import FormatError
from loratools.formats._peft import patterns as peft_patterns
from loratools.formats._peft.config import parse_config
from loratools.formats._peft.kinds._lora import LORA
from loratools.formats._peft.name_tree import NameTree
from loratools.formats._peft.patterns import Pattern, matched, named
from loratools.io import regex
from tests.formats.bundles import HERE, config, decoded, lora

PEFT: dict[str, Callable[[str, str], re.Match[str] | None]] = {  # as PEFT 0.21 writes them
    "end": lambda pattern, module: re.match(rf"(.*\.)?({pattern})$", module),
    "whole": re.fullmatch,
    "layer": lambda pattern, module: re.match(rf"(?:^|.*?\.){pattern}\.(?P<idx>\d+)\.", module),
    "inside": lambda pattern, module: re.match(rf"(^|.*\.){pattern}($|\..*)", module),
}
PARTS = ["q", "q_proj", "layers", "0", "1", "10", "h", "a-b", "é", "x y", ""]
MODULES = st.lists(
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=5).map(".".join)
    | st.sampled_from(["layersX1.q", "q\n", "a\nb.q", "qXproj", "layers.0\n"]),
    max_size=8,
)
NAMES = st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).flatmap(
    lambda parts: st.sampled_from([".", r"\.", "x"]).map(lambda dot: dot.join(parts))
)
PIECES = st.sampled_from(
    ["q", "layers", r"\.", ".", ".*", "(q|q_proj)", "[0-9]+", r"\d", "(?!q)", "(?<!h)", "^", "$",
     "(?:layers|h)", "_?", r"\bq", r"\w+?", "a|q", r"\-", "1{1,2}", "(", "(?i)Q"]
)  # fmt: skip
TEXTS = (
    NAMES
    | NAMES.map(re.escape)
    | NAMES.map("^{}".format)
    | NAMES.map("{}$".format)
    | st.lists(PIECES, max_size=4).map("".join)
)
PATTERNS = st.lists(
    st.builds(Pattern, st.just("field"), TEXTS, st.sampled_from(sorted(PEFT))), max_size=12
)


@settings(max_examples=60, deadline=None)
@given(patterns=PATTERNS, modules=MODULES)
def test_patterns_match_what_they_match_in_peft(
    patterns: list[Pattern], modules: list[str]
) -> None:
    try:
        expected = {
            pattern: {
                module: found.groupdict().get("idx")
                for module in modules
                if (found := PEFT[pattern.rule](pattern.text, module))
            }
            for pattern in patterns
        }
    except re.error:
        expected = None
    if expected is None and modules:
        with pytest.raises(FormatError, match=r"^field: .* is not a regular expression"):
            matched(patterns, modules)
    elif modules:
        assert matched(patterns, modules) == expected


#: Few parts, so that a name of several is often the end of a path.
SHORT = st.lists(st.sampled_from(["q", "0"]), min_size=1, max_size=3).map(".".join)


@given(
    names=st.lists(st.sampled_from(PARTS) | MODULES.map("".join) | SHORT, max_size=6),
    modules=MODULES | st.lists(SHORT, max_size=8),
)
def test_listed_names_mean_the_paths_that_end_with_them(
    names: list[str], modules: list[str]
) -> None:
    found = named(names, modules)
    for module in modules:
        meant = {name for name in names if module == name or module.endswith(f".{name}")}
        assert set(found.get(module, ())) <= meant
        assert bool(found.get(module)) == bool(meant)
    used = {name for name in names if any(name in hits for hits in found.values())}
    assert used == {n for n in names if any(m == n or m.endswith(f".{n}") for m in modules)}


@pytest.mark.parametrize("name", ["q_proj", "layers.0.q", r"layers\.0\.q", "^layers.0.q$", "é"])
@pytest.mark.parametrize("rule", sorted(PEFT))
def test_names_take_no_process(name: str, rule: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regex, "_run", None)
    assert matched([Pattern("field", name, rule)], ["x.layers.0.q", name])


def test_many_names_cost_a_few_lookups_a_module() -> None:
    """As `resize --energy` writes them: hundreds of modules, each with a pattern of its own."""
    modules = [
        f"model.layers.{layer}.{part}_proj"
        for layer in range(80)
        for part in ("self_attn.q", "self_attn.k", "self_attn.v", "mlp.up", "mlp.down", "mlp.gate")
    ]
    for pattern in ("{}", "^{}"):
        tree: NameTree[str] = NameTree()
        for module in modules:
            path = pattern.format(module)
            tree.add(path, peft_patterns._parts(module), is_whole=path[0] == "^")
        assert [list(tree.find(module, len(module))) for module in modules] == [
            [pattern.format(module)] for module in modules
        ]
        assert tree.lookups < 20 * len(modules)


def test_names_made_to_match_one_module_all_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NameTree, "limit", staticmethod(lambda paths: 1000))
    names = [f"{number:010b}".replace("0", ".").replace("1", "a") for number in range(1024)]
    patterns = [Pattern("rank_pattern", name, "end") for name in names]
    with pytest.raises(
        FormatError, match="rank_pattern: too many of the names match the same modules"
    ):
        matched(patterns, ["a" * 10])


ENDLESS = r"(\w+\.?)*!$"
FIELDS = {
    "target_modules": ENDLESS,
    "exclude_modules": ENDLESS,
    "layers_pattern": [ENDLESS],
    "modules_to_save": [ENDLESS],
    "rank_pattern": {ENDLESS: 3},
    "alpha_pattern": {ENDLESS: 3},
}


@pytest.mark.parametrize("field", FIELDS)
def test_pattern_that_takes_for_ever_is_named_and_refused(
    field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regex, "WALL_SECONDS", 0.3)
    module = "model.layers.0.self_attn.q_proj_with_a_long_name_of_its_own"
    with pytest.raises(FormatError) as caught:
        decoded(lora(module), None, **{field: FIELDS[field]})
    said = f"here: config: {field}: {ENDLESS!r} takes longer than 2 s to be matched"
    assert str(caught.value) == said


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": "(q"},
        {"exclude_modules": "(q"},
        {"layers_pattern": "(q"},
        {"layers_pattern": ["layers", "(q"], "layers_to_transform": [1]},
        {"modules_to_save": ["head", "(q"]},
        {"rank_pattern": {"(q": 3}},
        {"alpha_pattern": {"(q": 3}},
    ],
    ids=str,
)
def test_pattern_that_is_none_is_named_with_its_field(fields: dict[str, Any]) -> None:
    with pytest.raises(FormatError) as caught:
        decoded(lora("layers.1.q"), **fields)
    said = f"{next(iter(fields))}: '(q' is not a regular expression: missing ), unterminated"
    assert str(caught.value).startswith(f"here: config: {said}")


@pytest.mark.parametrize("value", [5, 0, True, 1.5, {"q": 1}, ["q", None], [["q"]], [5]], ids=str)
@pytest.mark.parametrize(
    "field", ["target_modules", "exclude_modules", "layers_pattern", "modules_to_save"]
)
def test_names_of_a_wrong_type_are_refused(field: str, value: Any) -> None:
    with pytest.raises(
        FormatError, match=f"here: config: {field} must be a name or a list of names, is "
    ):
        decoded(lora("q"), **{field: value})


@pytest.mark.parametrize("value", ["1", True, 1.0, [1, "2"], {"1": 2}, [None]], ids=str)
def test_layers_of_a_wrong_type_are_refused(value: Any) -> None:
    message = "here: config: layers_to_transform must be a number or a list of numbers, is "
    with pytest.raises(FormatError, match=message):
        decoded(lora("q"), layers_to_transform=value)


def test_a_question_about_another_module_is_answered_too() -> None:
    parsed = parse_config(config(rank_pattern={"q|k": 8}), HERE, LORA).about(["a.q"])
    assert [parsed.expected_rank(module) for module in ("a.q", "b.k", "b.v")] == [8, 8, 2]
