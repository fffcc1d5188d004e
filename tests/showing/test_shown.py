"""How reports and options look at Python's prompt and in a notebook."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from html import escape
from html.parser import HTMLParser
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch

import loratools
from loratools import MergeOptions, Pulled, PushOptions, PushReport, RankRule, Rescaling
from loratools.other_words import IN_A_REPORT
from loratools.showing.html import html_of
from loratools.showing.parts import Column, Fields, Table, aside, numbers
from tests.e2e.commands import PLAIN
from tests.merged import pair, write_adapter, write_base

SCRIPT = "<script>alert(1)<"
TARGETS = [f"model.{SCRIPT}.layers.{n}.q" for n in range(4)]
PUBLIC = {name: getattr(loratools, name) for name in loratools.__all__}
REPORTS = {name for name, value in PUBLIC.items() if hasattr(value, "to_json")}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A report of each class, on files and targets that have a tag of HTML in their names."""
    folder = tmp_path_factory.mktemp("reports") / SCRIPT
    folder.mkdir()
    factors = {key: value for target in TARGETS for key, value in pair(target, 6, 4).items()}
    one = write_adapter(folder / "one", factors)
    known = write_adapter(folder / "known", pair("model.layers.0.self_attn.q_proj", 6, 4))
    base = write_base(folder / "base", {f"{target}.weight": torch.ones(6, 4) for target in TARGETS})
    tuned = folder / "tuned"
    files = {f"{SCRIPT}{number}": "0" * 64 for number in range(300)}
    made = [
        loratools.inspect(one, base=base, spectrum=True, blocks=True),
        loratools.inspect([one, base]),
        loratools.merge(base, [one], output=tuned),
        loratools.rescale(one, output=folder / "half", rescaling=Rescaling(strength=0.5)),
        loratools.convert(known, output=folder / "mlx", to="mlx"),
        loratools.combine([one, one], output=folder / "both", rule=RankRule(rank=1)),
        loratools.resize(one, output=folder / "small", rule=RankRule(rank=1)),
        loratools.svd_extract(tuned, base, output=folder / "extracted", rule=RankRule(rank=1)),
        loratools.swap(tuned, [one]),
        Pulled(SCRIPT, "0" * 40, f"/{SCRIPT}", files, 12, None),
        PushReport(SCRIPT, None, (*files,), (*files,), (*files,), 3, SCRIPT, dry_run=False),
    ]
    return {type(report).__name__: report for report in made}


def test_every_report_is_tried(reports: dict[str, Any]) -> None:
    assert set(reports) == REPORTS


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.found.append(tag)


@pytest.mark.parametrize("name", sorted(REPORTS))
def test_html_has_no_tag_of_a_name(name: str, reports: dict[str, Any]) -> None:
    html = reports[name]._repr_html_()
    tags = Tags()
    tags.feed(html)
    assert set(tags.found) <= {"div", "table", "thead", "tbody", "tr", "th", "td", "small"}
    assert "&lt;script&gt;alert(1)" in html


@pytest.mark.parametrize("name", sorted(REPORTS))
def test_the_repr_of_a_report_is_short_and_names_its_class(
    name: str, reports: dict[str, Any]
) -> None:
    text = repr(reports[name])
    assert text.startswith(f"<{name}")
    assert len(text) < 500
    assert text.isprintable()


@pytest.mark.parametrize("name", sorted(REPORTS))
def test_html_has_what_the_command_prints(name: str, reports: dict[str, Any]) -> None:
    """Every cell of every table, and every line."""
    report, html = reports[name], reports[name]._repr_html_()
    for part in report.shown():
        if isinstance(part, Table):
            for column in part.columns:
                cells = [] if column.is_bar else column.shown
                assert all(escape(cell) in html for cell in [column.heading, *cells])


@pytest.mark.parametrize("name", sorted(REPORTS))
def test_a_printed_report_has_its_tables(name: str, reports: dict[str, Any]) -> None:
    text = str(reports[name])
    for part in reports[name].shown():
        if isinstance(part, Table):
            assert all(column.heading in text for column in part.columns)
        if isinstance(part, Fields):
            assert all(label in text for label, value in part.rows if value)
    assert "object at 0x" not in text


@pytest.mark.parametrize("name", sorted(REPORTS))
def test_what_a_report_lacks_is_answered_by_something_that_it_has(
    name: str, reports: dict[str, Any]
) -> None:
    report = reports[name]
    asked = [word for words in IN_A_REPORT.values() for word in words if not hasattr(report, word)]
    assert {"to_dict", "summary"} <= set(asked)
    for word in asked:
        with pytest.raises(AttributeError) as caught:
            getattr(report, word)
        *_, place = str(caught.value).partition("; did you mean ")
        if place and place != "print(report)?":
            assert attrgetter(place.removesuffix("?").removesuffix("()"))(report) is not None
    assert not hasattr(report, "_total")


@pytest.mark.parametrize(
    ("name", "word", "place"),
    [
        ("ResizeReport", "relative_error", "certificates.total"),
        ("CombineReport", "energy", "certificates.total"),
        ("ExtractReport", "relative_error", "total"),
        ("ExtractReport", "energy", "total"),
        ("MergeReport", "cosine", "total"),
        ("MergeReport", "weights", "fidelity"),
        ("Inspection", "problems", r"faults\(\)"),
        ("Inspection", "targets", "adapter"),
        ("Inspection", "is_sounds", "is_sound"),
        ("Inspections", "problems", "rows"),
        ("SwapReport", "to_dict", r"to_json\(\)"),
    ],
)
def test_what_is_looked_for_in_a_report_is_answered_by_where_it_is(
    name: str, word: str, place: str, reports: dict[str, Any]
) -> None:
    says = rf"^'{name}' object has no attribute '{word}'; did you mean {place}\?$"
    with pytest.raises(AttributeError, match=says):
        getattr(reports[name], word)


def test_what_is_looked_for_in_a_row_is_answered_by_its_inspection(
    reports: dict[str, Any],
) -> None:
    with pytest.raises(AttributeError, match=r"'targets'; did you mean inspection\?"):
        _ = reports["Inspections"][0].targets


def test_the_parts_of_reports_have_short_reprs_that_say_what_they_mean(
    reports: dict[str, Any],
) -> None:
    merged, resized = reports["MergeReport"], reports["ResizeReport"]
    for part in (merged.plan, merged.total, resized.certificates.total):
        assert len(repr(part)) < 500
        assert re.match(
            r"<(MergePlan of .*: 4 of 4 tensors changed|Fidelity: rel|Truncation)", repr(part)
        )
    assert re.search(r"0x[0-9a-f]{6}", repr(merged.plan.base)) is None


def test_the_repr_of_a_rescaling_says_by_how_much() -> None:
    assert repr(loratools.rescale(PLAIN, strength=0.5).report) == (
        "<RescaleReport: 35 updates × 0.5>"
    )
    assert repr(loratools.rescale(PLAIN).report) == "<RescaleReport: unchanged>"


def option_classes() -> Iterator[str]:
    for name, value in PUBLIC.items():
        if is_dataclass(value) and name not in REPORTS and name not in {"Adapter", "Target"}:
            yield name


@pytest.mark.parametrize("name", sorted(option_classes()))
def test_the_repr_of_options_has_what_is_not_the_default(name: str) -> None:
    kind = PUBLIC[name]
    assert repr(kind()) == f"{name}()"


def test_the_repr_of_options_can_be_read_back_and_stays_short() -> None:
    rule = RankRule(energy=0.9, max_rank=8)
    assert repr(rule) == "RankRule(energy=0.9, max_rank=8)"
    assert eval(repr(rule)) == rule
    globs = MergeOptions(only=tuple(f"layers.{n}.*" for n in range(1000)))
    assert len(repr(globs)) < 500
    assert len(repr(PushOptions(reports=[{"notes": ["x" * 10_000] * 99}] * 99))) < 500
    assert len(fields(rule)) > 2, "of which the others are left out"


def test_a_long_table_is_cut_in_html_and_says_by_how_much() -> None:
    column = [f"layers.{n}" for n in range(1000)]
    table = Table([Column("targets", [*column, "all"]), numbers("n", ["1"] * 1001)], totals=1)
    html = html_of([table])
    assert html.count("<tr>") < 40
    assert "… and 976 more" in html
    assert re.search(r"<th[^>]*>all</th>", html), "the totals are there"


@pytest.mark.parametrize("name", ["ExtractReport", "MergeReport"])
def test_a_plan_is_one_short_line_at_the_prompt(name: str, reports: dict[str, Any]) -> None:
    shown = repr(reports[name].plan)
    assert len(shown) < 500
    assert shown.startswith(f"<{name.removesuffix('Report')}")


def test_long_lists_of_notes_are_cut_in_html() -> None:
    html = html_of([aside("Note", str(n)) for n in range(100)])
    assert html.count("<div>") < 40
    assert "… and 76 more lines" in html


def test_fields_without_a_text_are_left_out_of_html() -> None:
    assert "task" not in html_of([Fields([("task", ""), ("kind", "LoRA")])])


def test_control_characters_are_escaped_in_html() -> None:
    assert "a\\x1b[31mb" in html_of(["a\x1b[31mb"])


def test_an_adapter_of_a_thousand_targets_is_short_in_a_notebook(tmp_path: Path) -> None:
    names = [f"model.layers.{n}.<script>" for n in range(1000)]
    factors = {key: value for name in names for key, value in pair(name, 2, 3).items()}
    adapter = loratools.open_adapter(write_adapter(tmp_path / "<b>", factors))
    for shown in (adapter, loratools.inspect(tmp_path / "<b>"), adapter[names[0]]):
        assert len(repr(shown).splitlines()) == 1
        assert len(repr(shown)) < 500
    html = adapter._repr_html_()
    assert html.count("<tr") < 40
    assert "… and 976 more" in html
    assert "<script>" not in html
    assert "<b>" not in html
    assert "model.layers.0.&lt;script&gt;.weight" in html


def test_what_notebooks_show_imports_no_torch() -> None:
    program = (
        "import sys, loratools\n"
        f"found = loratools.inspect({str(PLAIN)!r})\n"
        "found._repr_html_(), repr(found), found.adapter._repr_html_()\n"
        "print({'torch', 'click', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.split() == [b"set()"]
