"""What a type checker cannot know of a value, checked."""

from typing import TypeVar

from loratools import Adapter

Value = TypeVar("Value")


def present(value: Value | None) -> Value:
    """A value that may be missing in general, and is there in this test."""
    assert value is not None
    return value


def report_of(adapter: Adapter, kind: type[Value]) -> Value:
    """The report of the verb that made an adapter in memory."""
    assert isinstance(adapter.report, kind)
    return adapter.report
