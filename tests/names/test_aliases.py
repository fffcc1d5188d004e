"""The files of rules agree with the key lists of published models."""

import re
from collections.abc import Mapping
from functools import cache
from itertools import pairwise

import pytest

from loratools.names.patterns import depths_of
from loratools.names.rules import Part, Rows, Rules, parse_rules
from tests.names.key_lists import ALIASES, MODELS, KeyList, key_list

FILES = tuple(sorted(path.stem for path in ALIASES.glob("*.txt")))
COMPONENTS = {"transformer", "unet", "text_encoder", "vae"}
each_file = pytest.mark.parametrize("file", FILES)
each_model = pytest.mark.parametrize("model", MODELS)


@cache
def listed(model: str) -> tuple[KeyList, Rules, Mapping[str, int]]:
    """A model's key list, its rules, and how many blocks it has."""
    found = key_list(model)
    return found, parse_rules(found.rules_text())[1], depths_of([*found.tensors, *found.others])


def parts(model: str, name: str) -> tuple[Part, ...] | None:
    """What the rules of a model make of an original name."""
    _, rules, depths = listed(model)
    return rules.parts(name, depths)


@each_file
def test_a_file_says_what_model_and_which_component_it_is_for(file: str) -> None:
    fields, rules = parse_rules((ALIASES / f"{file}.txt").read_text(encoding="utf-8"))
    optional = {"sides", "variants", "holds", "lacks"}
    assert {"name", "component"} <= fields.keys() <= {"name", "component"} | optional
    assert fields["component"] in COMPONENTS
    assert rules.rules
    assert file in {key_list(model).rules for model in MODELS}, "no key list"


@each_file
def test_every_line_is_the_rule_of_a_tensor_of_a_published_model(file: str) -> None:
    text = (ALIASES / f"{file}.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if re.search(r" = (?!none:)", line)]
    numbered = "".join(
        re.sub(r" = \S+", f" = line{number}", line) + "\n" for number, line in enumerate(lines)
    )
    _, rules = parse_rules(numbered)
    used: set[str] = set()
    for found, _, depths in (listed(m) for m in MODELS if key_list(m).rules == file):
        for name in [*found.tensors, *found.others]:
            used |= {part.diffusers.partition(".")[0] for part in rules.parts(name, depths) or ()}
    unused = [line for number, line in enumerate(lines) if f"line{number}" not in used]
    assert unused == []


@each_model
def test_every_name_has_a_rule_or_a_reason(model: str) -> None:
    found, rules, depths = listed(model)
    unknown = [
        name
        for name in [*found.tensors, *found.others]
        if not parts(model, name) and not rules.reason(name, depths)
    ]
    assert unknown == []


@each_model
def test_the_parts_of_a_tensor_are_all_of_its_rows_once(model: str) -> None:
    for name, shape in listed(model)[0].tensors.items():
        runs: list[tuple[int, int]] = []
        for part in parts(model, name) or ():
            rows = part.rows.part_rows(shape[0]) if shape else None
            if rows is None or part.rows.is_transposed or part.rows.is_reshaped:
                break  # sizes of their own, or all rows
            runs += part.rows.resolved(shape[0], rows) or ()
        else:
            ends = [0, *(end for _, end in sorted(runs))]
            assert sorted(runs) == list(pairwise(ends)), name
            assert not runs or ends[-1] == shape[0], name


@each_model
def test_the_rules_lead_back_to_the_name(model: str) -> None:
    found, rules, _ = listed(model)
    forth = {name: parts(model, name) or () for name in [*found.tensors, *found.others]}
    depths = depths_of(part.diffusers for found in forth.values() for part in found)
    for name, its_parts in forth.items():
        for part in its_parts:
            assert part in (rules.wholes(part.diffusers, depths) or ()), name


@each_model
def test_other_names_mean_the_same_tensors_or_their_parts(model: str) -> None:
    found = listed(model)[0]
    known: set[tuple[object, ...]] = set()
    for name, shape in found.tensors.items():
        for part in parts(model, name) or ():
            rows = part.rows.part_rows(shape[0]) if shape else None
            known |= {(shape, *part[1:]), ((rows, *shape[1:]), part.diffusers, Rows())}
    for name, shape in found.others.items():
        for part in parts(model, name) or ():
            assert (shape, *part[1:]) in known, name


@each_model
def test_other_rules_do_not_know_all_names_or_map_them_alike(model: str) -> None:
    found, _, depths = listed(model)
    for file in FILES:
        _, others = parse_rules((ALIASES / f"{file}.txt").read_text(encoding="utf-8"))
        theirs = [others.parts(name, depths) for name in found.tensors]
        assert None in theirs or theirs == [parts(model, name) for name in found.tensors], file
