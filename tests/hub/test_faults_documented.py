"""The page about the Hub's faults says what the tests of them say."""

import re
from pathlib import Path

from tests.hub.test_faults_of_pull import ROWS as PULL
from tests.hub.test_faults_of_push import ROWS as PUSH

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "hub-faults.md"


def table() -> list[str]:
    """The rows in the order of the tests, those of both commands first."""
    pull, push = ({row.fault: row.outcome for row in rows} for rows in (PULL, PUSH))
    assert (len(pull), len(push)) == (len(PULL), len(PUSH)), "a fault has two rows"
    both = [fault for fault in pull if fault in push]
    faults = [*both, *(f for f in pull if f not in push), *(f for f in push if f not in pull)]
    return [f"| {fault} | {pull.get(fault, '')} | {push.get(fault, '')} |" for fault in faults]


def test_the_page_has_the_table_of_the_tests() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| .* \|$", text, re.MULTILINE)[1:]  # without the heading
    assert rows == table(), "the table should be:\n" + "\n".join(table())
