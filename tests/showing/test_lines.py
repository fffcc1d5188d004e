"""Tables as lines of text: at every width nothing is too long, divided or left out."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratools.showing.folding import fold, pieces, width_of
from loratools.showing.lines import Look, lines_of
from loratools.showing.parts import Aside, Column, Fields, Part, Table, numbers

NAMES = (
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
    "base_model.model.model.layers.*.self_attn.q_proj",
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.to_out_lora",
    "hf://organisation-with-a-long-name/stable-diffusion-xl-base-1.0@main/unet",
    "adapters of ann/2024-05-01 first try/checkpoint-1000/adapter_model.safetensors",
    "模型.层.注意力机制的投影矩阵與說明文字非常長非常長非常長非常長",
    "a\x1b[31mb\u202ec.layers.0",
    "short",
)
WIDTHS = [60, 80, 200]
NUMBERS = (
    "0.000123",
    "1.23e-05",
    "8 → 4–6",
    "× 0.5 to 1.25",
    "not finite",
    "3072×1024×3×3",
    "",
    "31.5",
)


def lines(part: Part, width: int | None) -> list[str]:
    return [*lines_of([part], Look(width))]


def table(count: int) -> Table:
    """A table of the names with `count` columns of numbers, each of which has all numbers."""
    columns = [numbers(f"with {n}", NUMBERS, "" if n else "a cosine") for n in range(count)]
    return Table([Column("targets", NAMES), *columns, Column("kind", ["stacked LoRA"] * 8)])


def blocks(shown: list[str]) -> list[list[str]]:
    """The tables, of which each has some of the columns, without the legend."""
    found: list[list[str]] = [[]]
    for line in shown:
        if not line or line.startswith("("):
            found.append([])
        else:
            found[-1].append(line)
    return [block for block in found if block and not block[0].endswith(")")]


def first_column(block: list[str]) -> str:
    """The cells of the first column, joined; it ends where the second heading may begin."""
    end = min(start(line) for line in block[1:] if start(line))
    return "".join(cut(line, end).strip() for line in block[1:])


def start(line: str) -> int:
    """The position on the screen where the first gap in a line ends; 0 if there is none."""
    gap = re.search(r"  +", line)
    return width_of(line[: gap.end()]) if gap else 0


def cut(line: str, end: int) -> str:
    """What of a line is left of a position on the screen."""
    at = next((n for n in range(len(line)) if width_of(line[:n]) >= end - 1), len(line))
    return line[:at]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("count", [0, 1, 3, 8, 20])
def test_no_line_is_wider_than_the_terminal(width: int, count: int) -> None:
    assert max(map(width_of, lines(table(count), width))) <= width


@pytest.mark.parametrize("width", [*WIDTHS, None])
@pytest.mark.parametrize("count", [1, 3, 8, 20])
def test_every_number_is_whole_and_there(width: int | None, count: int) -> None:
    text = "\n".join(lines(table(count), width))
    for number in filter(None, NUMBERS):
        assert len(re.findall(rf"(?<!\S){re.escape(number)}(?!\S)", text)) == count, number


@pytest.mark.parametrize("width", [*WIDTHS, None])
@pytest.mark.parametrize("count", [1, 3, 8, 20])
def test_every_name_is_what_its_lines_are_together(width: int | None, count: int) -> None:
    for block in blocks(lines(table(count), width)):
        joined = first_column(block).replace(" ", "")
        for name in NAMES:
            shown = "\n".join(lines(Table([Column("", [name])]), None)).strip()
            assert shown.replace(" ", "") in joined


@pytest.mark.parametrize("width", WIDTHS)
def test_names_end_a_line_at_a_dot_or_an_underscore_and_never_in_a_word(width: int) -> None:
    plain = NAMES[:4]
    columns = [numbers(f"with {n}", [*NUMBERS[:4]]) for n in range(3)]
    for block in blocks(lines(Table([Column("targets", plain), *columns]), width)):
        whole = [cut(line, start(line) or width).strip() for line in block[1:]]
        ends = [part for part in whole if not any(name.endswith(part) for name in plain)]
        assert all(part[-1] in "._/-@:" for part in ends), ends


def test_without_a_width_a_row_is_one_line() -> None:
    shown = lines(table(20), None)
    assert len(shown) == 1 + len(NAMES) + 1


def test_a_name_is_whole_where_there_is_room() -> None:
    assert lines(table(3), 200)[1].startswith(f"{NAMES[0]}  ")


def test_the_widest_column_gives_way_first() -> None:
    other = "stacked LoRA, Tucker LoCon"
    shown = lines(Table([Column("a", ["part_" * 20]), Column("b", [other])]), 60)
    assert shown[1].endswith(other)


def test_columns_without_room_are_in_a_table_beneath_with_the_names_again() -> None:
    shown = lines(table(20), 60)
    assert len(blocks(shown)) > 3
    assert all(block[0].startswith("targets") for block in blocks(shown))
    heads = " ".join(block[0] for block in blocks(shown))
    assert re.findall(r"with (\d+)", heads) == [str(n) for n in range(20)]


def test_a_legend_is_told_once_and_only_of_headings_that_have_one() -> None:
    columns = [Column("targets", ["a"]), numbers("n", ["1"], "how many"), numbers("rank", ["2"])]
    assert lines(Table(columns), 60)[-1] == "(n: how many)"
    assert lines(Table([columns[0], columns[2]]), 60)[-1] == "a           2"
    assert sum("a cosine" in line for line in lines(table(1), 60)) == 1


def test_totals_are_told_apart() -> None:
    columns = [Column("targets", ["a", "b", "all"]), numbers("n", ["1", "2", "3"])]
    *_, before, rule, total = lines(Table(columns, totals=1), 60)
    assert (before, rule, total) == ("b        2", "──────────", "all      3")


@pytest.mark.parametrize("width", [30, 40, 60])
def test_bars_are_drawn_shorter_where_there_is_little_room(width: int) -> None:
    bars = Column("", ["▪" * 30, "▪" * 15], is_bar=True)
    full, half = lines(
        Table([Column("block", ["IN04", "B01"]), numbers("n", ["1", "22"]), bars]), width
    )[1:]
    drawn = full.count("▪")
    assert 0 < drawn <= 30
    assert abs(half.count("▪") - drawn / 2) <= 1
    assert max(len(full), len(half)) <= width


def test_fields_are_folded_beside_their_labels() -> None:
    shown = lines(Fields([("kind", "LoRA"), ("none", ""), ("base", "word " * 30)]), 60)
    assert shown[0] == "kind  LoRA"
    assert all(line.startswith(" " * 6) for line in shown[2:])
    assert max(map(len, shown)) <= 60


def test_an_aside_stays_one_and_is_never_folded() -> None:
    (line,) = lines(Aside("Note: " + "word " * 100), 60)
    assert isinstance(line, Aside)
    assert len(line) > 500


@given(st.text(max_size=200), st.integers(1, 50))
def test_folded_lines_are_the_text(text: str, width: int) -> None:
    folded = fold(text, width)
    assert "".join("".join(folded).split()) == "".join(text.split())
    widest = max(map(width_of, text), default=0)
    assert max(map(width_of, folded)) <= max(width, widest)


@given(st.text(max_size=100))
def test_pieces_are_the_text(text: str) -> None:
    assert "".join(pieces(text)) == text


@pytest.mark.parametrize("number", ["0.5", "1,234", "1e-05", "2.5e+10", "12:30"])
def test_a_number_in_a_text_is_one_piece(number: str) -> None:
    assert pieces(number) == [number]
