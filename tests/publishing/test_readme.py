"""Model cards: what is written, and that a card's own text stays as it was."""

import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from hypothesis import example, given
from hypothesis import strategies as st

from loratools.errors import FormatError
from loratools.publishing.card.facts import CardFacts, CardTarget
from loratools.publishing.card.readme import complete_card
from loratools.publishing.card.reports import CardFigure, CardSource
from loratools.publishing.card.template import BEGIN, END, _context, _default

FACTS = CardFacts(
    repo="ann/stories-lora",
    kind="adapter",
    base_models=("ann/stories",),
    library_name="peft",
    licence="apache-2.0",
    tags=("lora", "dora"),
    targets=(CardTarget("model.layers.*.q_proj", 5, (4, 8), "LoRA"),),
    sources=(CardSource("combine", "adapter", "hf://ann/a", 0.5, "ties"),),
    figures=(CardFigure("combine", "energy kept", "99.5 %"),),
    model_class="AutoModelForCausalLM",
)
METADATA = {
    "base_model": "ann/stories",
    "base_model_relation": "adapter",
    "library_name": "peft",
    "license": "apache-2.0",
    "tags": ["lora", "dora"],
}
MANAGED = f"{BEGIN}\nold\n{END}"


def front_matter(card: str) -> dict[str, object] | None:
    """As the Hub's client reads it."""
    found = REGEX_YAML_BLOCK.search(card.removeprefix("\ufeff"))
    return None if found is None else yaml.safe_load(found[2] + "\n") or {}


def around(card: str) -> tuple[str, str]:
    """What is before and after the managed section."""
    before, begin, rest = card.partition(BEGIN)
    return before, rest.partition(END)[2] if begin else ""


# A new card


def test_new_card_has_metadata_title_facts_and_usage() -> None:
    card = complete_card(None, FACTS)
    assert front_matter(card) == METADATA
    parts = [
        "\n# stories-lora\n",
        BEGIN,
        "| `model.layers.*.q_proj` | 5 | 4, 8 | LoRA |\n",
        "| combine (`ties`) | adapter | `hf://ann/a` | 0.5 |\n",
        "| combine | energy kept |  | 99.5 % |\n",
        END,
        "\n## Use\n",
        'PeftModel.from_pretrained(base, "ann/stories-lora")',
        "loratools merge hf://ann/stories hf://ann/stories-lora -o merged",
    ]
    places = [card.index(part) for part in parts]
    assert places == sorted(places)


def test_metadata_is_what_the_client_of_the_hub_reads() -> None:
    data = ModelCard(complete_card(None, FACTS)).data
    assert isinstance(data, ModelCardData)
    assert (data.base_model, data.library_name, data.license, data.tags) == (
        "ann/stories",
        "peft",
        "apache-2.0",
        ["lora", "dora"],
    )


def test_several_bases_are_a_list_and_none_is_nothing() -> None:
    several = replace(FACTS, kind="merge", base_models=("ann/a", "ann/b"))
    data = front_matter(complete_card(None, several))
    assert data is not None
    assert (data["base_model"], data["base_model_relation"]) == (["ann/a", "ann/b"], "merge")
    none = replace(FACTS, base_models=(), licence=None, library_name=None)
    assert front_matter(complete_card(None, none)) == {"tags": ["lora", "dora"]}


def test_names_that_look_like_other_yaml_stay_text() -> None:
    facts = replace(FACTS, base_models=("1e3",), licence="no", tags=("null", "2024-01-01"))
    data = front_matter(complete_card(None, facts))
    assert data is not None
    assert (data["base_model"], data["license"]) == ("1e3", "no")
    assert data["tags"] == ["null", "2024-01-01"]


def test_long_tables_are_cut_and_say_so() -> None:
    targets = tuple(CardTarget(f"t{n}", 1, (1,), "LoRA") for n in range(130))
    card = complete_card(None, replace(FACTS, targets=targets))
    assert "`t99`" in card
    assert "`t100`" not in card
    assert "\n30 more rows are not shown.\n" in card


# An existing card


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_existing_card_keeps_its_text_and_gets_what_is_missing(line_end: str) -> None:
    old = f"---\nlicense:   MIT # mine\ntags: [a,   b]\n---\n\nText\n\n{MANAGED} more\n\nend"
    old = old.replace("\n", line_end)
    new = complete_card(old, FACTS)
    added = "base_model: ann/stories\nbase_model_relation: adapter\nlibrary_name: peft\n"
    head = "---\nlicense:   MIT # mine\ntags: [a,   b]\n" + added + "---\n\nText\n\n"
    assert around(new) == (head.replace("\n", line_end), f" more{line_end}{line_end}end")
    assert new.count("\n") == new.count(line_end)
    assert "\nold" not in new


def test_section_is_appended_where_there_is_none() -> None:
    new = complete_card("# Mine\n\nText", FACTS)
    before, after = around(new)
    assert before.endswith("---\n\n# Mine\n\nText\n\n")
    assert after == "\n"


def test_section_follows_the_facts() -> None:
    new = complete_card(complete_card(None, FACTS) + "\nmine\n", replace(FACTS, figures=()))
    assert "energy kept" not in new
    assert new.endswith("\nmine\n")


@pytest.mark.parametrize(
    ("old", "column"),
    [
        ("---\n---\ntext", ""),
        ("---\n\n---\ntext", ""),
        ("---\n# nothing\n---\ntext", ""),
        ("\ufeff---\na: 1\n---\n", ""),
        ("---\n  a: 1\n  b: 2\n---\n", "  "),
        ("---\na: |+\n  text\n\n\n---\n", ""),
        ("---\na: &x [1]\nb: *x\n---\n", ""),
        ("---\na: 1\n---", ""),
    ],
)
def test_front_matter_in_unusual_forms_is_completed(old: str, column: str) -> None:
    new = complete_card(old, FACTS)
    before = front_matter(old) or {}
    assert front_matter(new) == before | METADATA
    assert f"\n{column}license: apache-2.0\n" in new


def test_card_of_spaces_gets_the_metadata_and_the_section() -> None:
    assert front_matter(complete_card(" \n", FACTS)) == METADATA
    assert complete_card("", FACTS) == complete_card(None, FACTS)


@pytest.mark.parametrize(
    ("old", "message"),
    [
        ("---\na: 1\nb: [\n---\n", r"README.md, line \d+: the front matter is not YAML: "),
        ("---\na: 1\n\tb: 2\n---\n", "README.md, line 3: the front matter is not YAML: "),
        ("---\na: 2024-13-45\n---\n", "README.md, line 2: the front matter is not YAML: month"),
        ("---\na: !!int ''\n---\n", "README.md, line 2: the front matter is not YAML: "),
        ("---\n\x01\n---\n", "README.md, line 2: the front matter is not YAML: "),
        ("---\n- a\n---\n", "README.md, line 2: the front matter is not a mapping"),
        ("---\n{a: 1}\n---\n", "base_model, .* cannot be added to the front matter"),
        ("---\na: 1\n...\n---\n", "base_model, .* cannot be added to the front matter"),
        (f"{MANAGED}\n{MANAGED}\n", "README.md, line 4: a second managed section; keep one"),
        (f"{MANAGED}\n{END}\n", "README.md, line 4: a second managed section; keep one"),
        (f"text\n{BEGIN}\n", f"README.md, line 2: {BEGIN} without {END}"),
        (f"text\n{END}\n", f"README.md, line 2: {END} without {BEGIN}"),
        (f"{END}\n{BEGIN}\n", f"README.md, line 2: {BEGIN} without {END}"),
    ],
)
def test_card_that_cannot_be_completed_is_refused_in_one_line(old: str, message: str) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        complete_card(old, FACTS)
    assert "\n" not in str(caught.value)


def test_aliases_that_stand_for_very_much_are_not_followed() -> None:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    new = complete_card("\n".join(["---", *lines, "---", ""]), FACTS)
    assert all(line in new for line in lines)


def front(text: str) -> str:
    return f"---\n{text}\n---\n"


ENDLESS = {
    "brackets": (front("[" * 3000), "more than 100 deep"),
    "braces": (front("{a: " * 3000), "more than 100 deep"),
    "lists": (front("- " * 3000 + "a"), "more than 100 deep"),
    "keys": (front("? " * 3000 + "a"), "more than 100 deep"),
    "lines": (front("\n".join(" " * n + "a:" for n in range(1000))), "more than 100 deep"),
    "brackets that end": (front("a: " + "[" * 50_000 + "]" * 50_000), "more than 100 deep"),
    "merged mappings": (
        front(
            "\n".join(
                ["a0: &a0 {x: 1}"]
                + [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 30)]
            )
        ),
        "merged mappings",
    ),
    "digits in base 60": (front("a: 1" + ":1" * 400_000), "a number of 800001 characters"),
    "much": (front("a: " + "x" * 2**20), "more than 1048576 characters"),
}


@pytest.mark.parametrize(("card", "says"), ENDLESS.values(), ids=list(ENDLESS))
@pytest.mark.parametrize("loader", ["C", "Python"])
def test_front_matter_that_would_take_minutes_is_refused_at_once(
    loader: str, card: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if loader == "Python":
        monkeypatch.delattr(yaml, "CSafeLoader")
    begin = time.process_time()
    with pytest.raises(FormatError, match=f"{says}|maximum nesting") as caught:  # libyaml's own
        complete_card(card, FACTS)
    assert time.process_time() - begin < 3
    assert str(caught.value).startswith("README.md")
    assert "\n" not in str(caught.value)


def test_front_matter_within_the_limits_is_completed() -> None:
    results = "".join(f"- task: {{type: t{n}}}\n  value: {n / 7}\n" for n in range(2000))
    deep = "d: " + "[" * 99 + "]" * 99
    assert f"{deep}\n" in complete_card(front(f"model-index:\n{results}{deep}"), FACTS)


PIECES = [
    *(
        "\n",
        "\n",
        "\r\n",
        "\r",
        " ",
        "  ",
        "---",
        "---\n",
        "\n---\n",
        "\r\n---\r\n",
        "...",
        "\ufeff",
    ),
    *("a: 1", "b: [x]", "tags: [x]", "license: mit", "base_model: me/x", "c: |+", "c: >", "- x"),
    *("{a: 1}", "# c", "text", "é", ": ", "&x", "*x", "'", "\x85", "\u2028", MANAGED, BEGIN, END),
]
CARDS = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
WITH_METADATA = st.builds(
    "---\n{}\n---\n{}".format, st.lists(st.sampled_from(PIECES), max_size=6).map("".join), CARDS
)


@given(CARDS | WITH_METADATA)
@example("a\r")
@example("---\n\n\ufeff\n---\n")
@example("---\n---\na: 1\n---")
@example("---\r\na: |+\r\n\r\n---\r\ntext\r")
def test_completing_keeps_all_else_and_is_done_once(old: str) -> None:
    try:
        new = complete_card(old, FACTS)
    except FormatError:
        return
    assert complete_card(new, FACTS) == new
    found = REGEX_YAML_BLOCK.search(old.removeprefix("\ufeff"))
    if not old or (found and "loratools" in found[0]):
        return  # a marker in the metadata is none
    (old_head, old_tail), (head, tail) = around(old), around(new)
    if BEGIN in old:
        assert tail == old_tail
    else:
        assert tail in {"\n", "\r\n"}
        head = head[: len(head.rstrip("\r\n")) or None]
        old_head = old_head.rstrip("\r\n")
    assert is_with_one_insertion(old_head, head)
    metadata, old_metadata = front_matter(new), front_matter(old) or {}
    assert metadata is not None
    assert METADATA.keys() <= metadata.keys()
    assert {name: metadata[name] for name in old_metadata} == old_metadata


def is_with_one_insertion(old: str, new: str) -> bool:
    same = next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), len(old))
    rest = old[same:]
    return len(new) >= len(old) and new.endswith(rest)


@given(st.text(), st.text(max_size=10))
def test_any_text_is_kept(text: str, before: str) -> None:
    """Without metadata or a section of its own."""
    if "---" in text or not text:
        return
    new = complete_card(text, FACTS)
    assert text.removeprefix("\ufeff") in new
    assert complete_card(new, FACTS) == new


# Values from files


EVIL = st.text() | st.lists(
    st.sampled_from(
        ["`", "|", END, BEGIN, "\n", "\r", "---", "<script>", "[x](y)", "{{ 1 }}", "\u202e"]
    )
).map("".join)


@given(EVIL)
def test_values_cannot_leave_their_place(evil: str) -> None:
    facts = replace(
        FACTS,
        targets=(CardTarget(evil, 1, (1,), evil),),
        sources=(CardSource(evil, evil, evil, 1.0, evil),),
        figures=(CardFigure(evil, evil, evil, evil),),
    )
    card, plain = complete_card(None, facts), complete_card(None, FACTS)
    assert card.count("\n") == plain.count("\n")
    assert len(card.splitlines()) == len(plain.splitlines())
    (before, after), expected = around(card), around(plain)
    assert (before, after) == expected
    assert complete_card(card, facts) == card
    section = card[len(before) + len(BEGIN) : len(card) - len(after) - len(END)]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert [row.count("|") for row in rows] == [5] * 9
    assert all(row.count("`") % 2 == 0 for row in rows)
    assert re.search("[<>\\[\\]\u202e]", section) is None


# Templates


def test_template_of_a_user_has_the_facts() -> None:
    template = (
        "# {{ title }} of {{ repo }} ({{ kind }}, {{ library_name }}, {{ licence }})\n{{ begin }}\n"
        "{{ base_models[0] }} {{ tags | join(' ') }} {{ model_class }}\n"
        "{% for t in targets %}{{ t.pattern }} {{ t.count }} {{ t.ranks }} {{ t.kind }}"
        "{% endfor %}\n\n"
        "{% for s in sources %}{{ s.verb }} {{ s.role }} {{ s.name }} {{ s.weight }} {{ s.method }}"
        "{% endfor %}\n\n"
        "{% for f in figures %}{{ f.verb }} {{ f.label }} {{ f.value }} {{ f.target }}"
        "{% endfor %}\n\n"
        "{{ end }}\nmine\n"
    )
    card = complete_card(None, FACTS, template)
    assert card.endswith(
        "---\n\n# stories-lora of ann/stories-lora (adapter, peft, apache-2.0)\n"
        f"{BEGIN}\nann/stories lora dora AutoModelForCausalLM\n"
        "model.layers.*.q_proj 5 [4, 8] LoRA\n"
        "combine adapter hf://ann/a 0.5 ties\n"
        f"combine energy kept 99.5 % None\n{END}\nmine\n"
    )
    assert complete_card(card, FACTS, template) == card


def test_template_may_replace_a_part_of_ours() -> None:
    template = '{% extends "card.md.jinja" %}{% block usage %}\nAsk me.\n{% endblock %}'
    card = complete_card(None, FACTS, template)
    ours = complete_card(None, FACTS)
    assert card == ours[: ours.index(END) + len(END)] + "\nAsk me.\n"


def test_template_may_have_metadata_of_its_own() -> None:
    card = complete_card(None, FACTS, "---\nlicense: mit\n---\n{{ begin }}{{ end }}\n")
    assert front_matter(card) == METADATA | {"license": "mit"}


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ begin }}\n{{ nothing }}\n{{ end }}", "mine.jinja, line 2: 'nothing' is undefined"),
        ("\n\n{% if %}", "mine.jinja, line 3: Expected an expression"),
        ("{{ begin }}\n{{ 1 / 0 }}", "mine.jinja, line 2: division by zero"),
        ("{{ repo.missing }}", "mine.jinja, line 1: .* has no attribute 'missing'"),
        ("{% include 'other' %}", "mine.jinja, line 1: other"),
        ("{{ repo.__class__ }}", "mine.jinja, line 1: access to attribute '__class__'"),
        ("{{ tags.append(1) }}", "mine.jinja, line 1: .*append"),
        ("text", "mine.jinja: makes no section from <!-- loratools:begin --> to"),
        ("a\n{{ begin }}", "mine.jinja, line 2: <!-- loratools:begin --> without"),
        ("---\n- a\n---\n{{ begin }}{{ end }}", "mine.jinja, line 2: .* not a mapping"),
        (
            '{% extends "card.md.jinja" %}{% block title %}{{ x }}{% endblock %}',
            "mine.jinja, line 1: 'x' is undefined",
        ),
    ],
)
def test_template_that_fails_is_refused_with_its_name_and_line(template: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        complete_card(None, FACTS, template, template_name="mine.jinja")


PAGE = (Path(__file__).parents[2] / "docs/how-to/model-card.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("template", re.findall(r"^```jinja\n(.*?)^```", PAGE, re.DOTALL | re.M))
def test_templates_of_the_guide_make_cards(template: str) -> None:
    card = complete_card(None, FACTS, template)
    assert "`model.layers.*.q_proj`" in card
    assert complete_card("mine\n", FACTS, template) != complete_card(
        "mine\n", replace(FACTS, targets=()), template
    )


def test_names_of_the_guide_are_those_that_a_template_has() -> None:
    table = PAGE.partition("A template can use these names:")[2]
    named = set(re.findall(r"`([\w\[\].]+)`", " ".join(re.findall(r"^\| (`.*?) \|", table, re.M))))
    found = set()
    for name, value in _context(FACTS).items():
        found |= {name}
        if isinstance(value, list) and isinstance(value[0], dict):
            found |= {f"{name}[].{inner}" for inner in value[0]}
    assert named == found
    assert set(re.findall(r"{% block (\w+)", _default())) == {
        *("title", "summary", "targets", "sources", "figures", "usage")
    }


# The facts themselves


@pytest.mark.parametrize(
    "wrong",
    [
        {"repo": "no-owner"},
        {"repo": 'a/b"\nimport os'},
        {"base_models": ("/models/mine",)},
        {"base_models": ("a/b/c",)},
        {"base_models": ("a--b",)},
        {"licence": "Apache 2.0"},
        {"model_class": "os; x"},
    ],
)
def test_facts_that_the_hub_would_not_accept_cannot_be_written(wrong: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=" is not "):
        replace(FACTS, **wrong)
