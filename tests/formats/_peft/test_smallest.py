"""Written patterns give every module its number by PEFT's rule, and no fewer would."""

import re
from collections.abc import Mapping
from itertools import combinations, count

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from loratools.formats._peft.smallest import smallest_patterns
from tests.oracles import oracle

PARTS = ["q", "k", "0", "1", "a-b", "qXa", "x"]
PATHS = st.lists(st.sampled_from(PARTS), min_size=1, max_size=3).map(".".join)
NUMBERS = st.dictionaries(PATHS, st.sampled_from([2, 3, 4]), min_size=1, max_size=5)


def by_peft(default: int, patterns: Mapping[str, int], module: str) -> int:
    key = oracle("peft").utils.other.get_pattern_key(list(patterns), module)
    return patterns.get(key, default)


@pytest.mark.oracle
@settings(deadline=None)  # the first example imports PEFT
@given(numbers=NUMBERS)
@example(numbers={"q": 2, "x.q": 3})
@example(numbers={"q.a": 2, "qXa": 3, "x.q.a": 2})
@example(numbers={"a+b": 2, "q(": 3, "[k]": 4})
@example(numbers={f"{'x.' * 20}{part}": at for at, part in enumerate("qkv")})
def test_peft_gives_each_module_its_number_in_any_order_of_the_patterns(
    numbers: dict[str, int],
) -> None:
    default, patterns = smallest_patterns(numbers)
    turned = dict(reversed(patterns.items()))
    for module, number in numbers.items():
        assert by_peft(default, patterns, module) == number
        assert by_peft(default, turned, module) == number


@settings(max_examples=60)
@given(numbers=NUMBERS)
def test_no_fewer_ends_of_paths_would_do(numbers: dict[str, int]) -> None:
    """By trying: sets of exact ends and whole paths, of which none matches another number."""
    ends = {m.split(".", n)[-1] for m in numbers for n in range(m.count(".") + 1)}
    names = [rf"(.*\.)?{re.escape(end)}" for end in ends] + [re.escape(m) for m in numbers]
    hits = [{m for m in numbers if re.fullmatch(name, m)} for name in names]
    pure = [found for found in hits if len({numbers[m] for m in found}) == 1]

    def suffices(size: int) -> bool:
        return any(
            {m for m in numbers if numbers[m] != default} <= set().union(*chosen)
            for default in numbers.values()
            for chosen in combinations(pure, size)
        )

    assert len(smallest_patterns(numbers)[1]) == next(size for size in count() if suffices(size))


def test_modules_that_end_alike_share_a_pattern() -> None:
    numbers = {f"layers.{n}.{p}": r for n in range(9) for p, r in (("q", 2), ("k", 3), ("v", 4))}
    assert smallest_patterns(numbers) == (2, {"k": 3, "v": 4})


def test_a_module_that_shares_with_none_has_its_whole_name() -> None:
    numbers = {"layers.0.q": 2, "layers.1.q": 3, "layers.2.q": 2, "layers.3.q": 2}
    assert smallest_patterns(numbers) == (2, {"layers.1.q": 3})


def test_dots_are_escaped_where_they_would_match_another_module() -> None:
    assert smallest_patterns({"q.a": 2, "qXa": 3, "z": 3}) == (3, {r"q\.a": 2})


def test_a_path_that_others_end_with_is_pinned_to_its_start() -> None:
    numbers = {"a.q": 2, "x.a.q": 3, "y.a.q": 3, "k": 3, "m": 3}
    assert smallest_patterns(numbers) == (3, {r"^a\.q": 2})
