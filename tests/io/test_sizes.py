"""Sizes are exact, and a number whose unit was forgotten is not one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import loratools
from loratools.errors import OptionError
from loratools.io.sizes import size_in_bytes
from tests.e2e.commands import SINGLE, SMALL
from tests.verbs import VERBS


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5 * 10**9), ("5g", 5 * 10**9), ("1.5 GiB", 3 * 2**29), ("1000", 1000), ("5B", 5),
     ("0.5kB", 500), (7, 7), (None, None)],
)  # fmt: skip
def test_a_size_is_a_number_of_bytes(text: int | str | None, size: int | None) -> None:
    assert size_in_bytes(text) == size


@pytest.mark.parametrize(
    "text", ["5", "999", "64", "0.5", "1.5", "big", "MB", "1iB", "0", "-1", ""]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match=r"unit|not a size|less than a byte"):
        size_in_bytes(text)


def test_a_number_without_its_unit_is_answered_by_sizes_that_would_do() -> None:
    with pytest.raises(OptionError, match="did you mean 5MB") as raised:
        size_in_bytes("5")
    assert "bytes are 5B" in str(raised.value)
    assert (size_in_bytes("5MB"), size_in_bytes("5B")) == (5_000_000, 5)


SIZED: dict[str, Callable[[Any, Path], object]] = {
    "resize": lambda size, tuned: loratools.resize(SMALL, size=size),
    "rescale": lambda size, tuned: loratools.rescale(SMALL, strength=0.5, base=SINGLE, size=size),
    "combine": lambda size, tuned: loratools.combine([SMALL, SMALL], size=size),
    "svd-extract": lambda size, tuned: loratools.svd_extract(tuned, SINGLE, size=size),
    "merge": lambda size, tuned: loratools.merge(
        SINGLE,
        SMALL,
        output=tuned.with_name("out"),
        write=loratools.WriteOptions(max_shard_bytes=size),
    ),
}


@pytest.mark.parametrize("verb", SIZED)
def test_python_takes_and_refuses_the_sizes_of_the_command_line(verb: str, tmp_path: Path) -> None:
    assert verb in VERBS
    loratools.merge(SINGLE, SMALL, output=tmp_path / "tuned")
    SIZED[verb]("64MB", tmp_path / "tuned")
    with pytest.raises(OptionError, match="'5' has no unit; did you mean 5MB"):
        SIZED[verb]("5", tmp_path / "tuned")
