"""What a type checker cannot know of a value, checked."""

from typing import TypeVar

Value = TypeVar("Value")


def present(value: Value | None) -> Value:
    """A value that may be missing in general, and is there in this test."""
    assert value is not None
    return value
