"""The Hub takes our model cards, and reads their metadata."""

from collections.abc import Iterator

import pytest
from huggingface_hub import CommitOperationAdd, ModelCard

import loratools
from loratools.files.checkpoints import open_checkpoint
from loratools.publishing.card.facts import facts_of
from loratools.publishing.card.readme import complete_card
from loratools.publishing.card.reports import read_steps
from tests.e2e.commands import FIXTURES, PLAIN, SHARDED, SINGLE
from tests.hub.client import owner
from tests.hub.server import Hub

REPO = "ann/mine"


def cards() -> Iterator[str]:
    merge = loratools.merge(SHARDED, PLAIN, output=None).to_json()
    kohya = loratools.inspect(FIXTURES / "kohya/sdxl-dynamic")
    plain = loratools.inspect(PLAIN)
    yield complete_card(None, facts_of(REPO, plain, licence="apache-2.0"))
    yield complete_card(None, facts_of(REPO, plain, base_models=["ann/a", "ann/b"]))
    yield complete_card(None, facts_of(REPO, kohya, base_models=["ann/diffusion"]))
    yield complete_card(None, facts_of(REPO, open_checkpoint(SINGLE), read_steps([merge])))
    yield complete_card("---\ntags: [mine]\r\n---\r\ntext", facts_of(REPO, plain))


@pytest.mark.parametrize("number", range(5))
def test_the_hub_accepts_a_card(hub: Hub, number: int) -> None:
    card = list(cards())[number]
    ModelCard(card).validate()
    api = owner(hub, "ann")
    api.create_repo(REPO)
    # The client has the Hub check the metadata before it uploads; a warning would be an error.
    operations = [CommitOperationAdd("README.md", card.encode())]
    api.create_commit(REPO, operations, commit_message="A card")
    assert hub.files(REPO)["README.md"] == card.encode()
    data = ModelCard.load(REPO).data
    assert {"lora", "merge", "mine"} & set(data.tags)
    assert data.library_name in {"peft", "diffusers", "transformers"}
