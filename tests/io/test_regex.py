"""Patterns of others are matched as `re` matches them, or named; in bounded time."""

import re
import subprocess
import sys

import pytest

from loratools.errors import StorageError
from loratools.io import regex
from loratools.io.regex import Answer, Regex, search

TEXTS = ["model.layers.10.self_attn.q_proj", "a" * 40 + "!", "", "two\nlines", "ünï.\ud800"]


def test_answers_are_those_of_re() -> None:
    patterns = [".*q_proj", "(?!a).*", r"(?P<idx>\w)\1*!", r"[^\W\d]+\.?.*", "(?i)MODEL.*", "a{0}"]
    regexes = [Regex(p, rule) for p in patterns for rule in ("match", "fullmatch")]
    for asked, answer in zip(regexes, search(regexes, TEXTS), strict=True):
        found = {text: getattr(re, asked.rule)(asked.pattern, text) for text in TEXTS}
        hits = {text: match.groupdict().get("idx") for text, match in found.items() if match}
        assert answer == Answer(hits)


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        ("(", "is not a regular expression: missing ), unterminated subpattern"),
        ("(" * 5000 + ")" * 5000, "is too deep or too large a regular expression"),
        ("a{99999999999999}", "is too deep or too large a regular expression"),
        ("x(?i)y", "is not a regular expression: global flags not at the start of the expression"),
    ],
)
def test_pattern_that_cannot_be_compiled_is_named_and_the_others_are_answered(
    pattern: str, fault: str
) -> None:
    assert search([Regex(pattern), Regex(".")], ["q"]) == [Answer(fault=fault), Answer({"q": None})]


def test_all_patterns_together_have_so_many_seconds_of_a_core(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(regex, "CPU_SECONDS", 1)
    resource = pytest.importorskip("resource")
    began = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    answers = search([Regex("a*!"), Regex(r"(a+)+$"), Regex("a*!")], TEXTS)
    assert answers == [
        Answer({TEXTS[1]: None}),
        Answer(fault="takes longer than 1 s to be matched"),
    ]
    assert 0.5 < resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - began < 3


#: What takes `re` for ever: to match, and to compile.
ENDLESS = [
    r"(\w+\.?)*!$",
    "(.*)*x",
    "(a|a)*b",
    "(a?){40}a{40}b",
    ".*" * 30 + "z",
    "(?=(a+)+$)b|(?<!(c))(a+)+$",
    "(?i)" + "[\0-\U0010ffff]" * 5000,
]


@pytest.mark.parametrize("pattern", ENDLESS, ids=lambda pattern: ascii(pattern)[:20])
def test_what_takes_for_ever_is_stopped_by_the_clock_too(
    pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regex, "WALL_SECONDS", 0.3)
    fault = "takes longer than 2 s to be matched"
    assert search([Regex(pattern)], TEXTS) == [Answer(fault=fault)]


def test_no_pattern_takes_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", None)
    assert search([], TEXTS) == []


def test_no_process_to_be_had_is_a_failure_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(StorageError, match="a process for regular expressions: no such file"):
        search([Regex(".")], ["q"])
