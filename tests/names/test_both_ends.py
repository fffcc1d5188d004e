"""Two updates of one tensor are told where the base ties its ends, or may do so."""

import pytest

from loratools.names.both_ends import notes_on_both_ends

LLAMA = ("model.layers.0.q.weight", "model.embed_tokens.weight", "lm_head.weight")
GPT2 = ("transformer.wte.weight", "lm_head.weight")
NEOX = ("gpt_neox.embed_in.weight", "embed_out.weight")


@pytest.mark.parametrize("names", [LLAMA, GPT2, NEOX])
@pytest.mark.parametrize(("is_tied", "severity"), [(True, "problem"), (None, "info")])
def test_updates_of_both_ends_are_told(
    names: tuple[str, ...], is_tied: bool | None, severity: str
) -> None:
    (note,) = notes_on_both_ends(names, is_tied)
    assert note.severity == severity
    assert names[-2] in note.message
    assert names[-1] in note.message


@pytest.mark.parametrize(
    ("names", "is_tied"),
    [(LLAMA, False), (LLAMA[:2], True), (LLAMA[::2], True), (LLAMA[:1], None), ((), None)],
)
def test_one_end_or_two_tensors_are_nothing_to_tell(
    names: tuple[str, ...], is_tied: bool | None
) -> None:
    assert list(notes_on_both_ends(names, is_tied)) == []
