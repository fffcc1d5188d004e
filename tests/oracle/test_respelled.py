"""An adapter in the other layout does, row by row, what diffusers' converters move of its weights.

Which rows of which weight are whose is known from what the converters of checkpoints do to tensors
of numbers (`_traced.py`), so these tests share nothing with the rules.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import cycle
from math import prod

import pytest
import torch
from torch import Tensor

from loratools.adapter import Adapter
from loratools.deltas.lora import LoRA, Scaling
from loratools.formats import decode, dialect_named
from loratools.io.source import Held
from loratools.parts import Filed, Update
from loratools.reshaping.compared import compare
from loratools.reshaping.converted import converted, encoded
from tests.formats.bundles import decoded, lora
from tests.formats.spellings import Numbers
from tests.names.key_lists import key_list
from tests.narrowing import present
from tests.oracles import WARNED, oracle

oracle("diffusers")

from tests.oracle._converters import MODELS  # noqa: E402
from tests.oracle._traced import STEP, Traced, traced  # noqa: E402

MOVED = pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")
pytestmark = [pytest.mark.oracle, *WARNED, MOVED]
#: A model of each architecture that has names in two layouts, and SDXL. Text encoders have the same
#: names in all formats, and adapters of image encoders are not known.
CROSSED = [
    name
    for name in {key_list(name).rules: name for name in reversed(MODELS)}.values()
    if not name.startswith(("clip", "openclip", "t5", "vae"))
] + ["sdxl"]
Shape = tuple[int, ...]
PREFIX = {"comfyui": "diffusion_model.", "diffusers": "transformer."}
each_model = pytest.mark.parametrize("model", CROSSED)


def adapter(dialect: str, shapes: Mapping[str, Shape]) -> Adapter:
    """An adapter of all matrices and kernels, with different ranks and alphas that are none."""
    numbers, updates = Numbers(len(shapes)), {}
    sizes = cycle([(2, 4.0), (1, 4.0), (2, 1.0), (4, 8.0)])
    for name, shape in shapes.items():
        rank, alpha = next(sizes)
        up = Held(f"{name}.up", numbers.draw(shape[0], rank), "F32")
        down = Held(f"{name}.down", numbers.draw(rank, prod(shape[1:])), "F32")
        scaling = Scaling(alpha, rank, "rank", "tensor")
        updates[f"{PREFIX[dialect]}{name}"] = Update(LoRA(up, down, scaling, shape))
    empty = decoded(lora("q"))
    return replace(empty, updates=updates, filed=Filed(dialect))


def read_back(source: Adapter, to: str, base: Mapping[str, Shape] | None) -> Adapter:
    """The adapter as it is read of what is written in another format."""
    dialect = dialect_named(to)
    found = converted(source, dialect, base, ())
    read = decode(encoded(found, dialect, present(source.filed).dialect, None).bundle)
    assert compare(found.adapter, read).worst is None
    return read


def respelled(source: Adapter, to: str, base: Mapping[str, Shape] | None) -> dict[str, Tensor]:
    """What the adapter adds to each weight, as it is read of what is written."""
    return added(read_back(source, to, base), "" if to == "peft" else ".")


def added(read: Adapter, after: str = ".") -> dict[str, Tensor]:
    """What an adapter adds to each weight, by the name after the first dot."""
    return {
        target.partition(after)[2] if after else target: dense(update)
        for target, update in read.updates.items()
    }


def dense(update: Update) -> Tensor:
    return present(update.delta.additive).dense_rows(0, update.delta.shape[0])


def places(found: Traced) -> dict[str, tuple[str, Tensor]]:
    """The original tensor and its rows that each matrix of diffusers is."""
    sources = found.sources()
    return {
        name: (source, tensor.flatten(1)[:, 0] % STEP // found.tagged[source][0].numel())
        for name, tensor in found.converted.items()
        if tensor.dim() > 1 and (source := sources[name]).endswith(".weight")
    }


def original_base(found: Traced) -> dict[str, Shape]:
    """The model as a base in the original layout."""
    return {name: tuple(tag.shape) for name, tag in found.tagged.items()}


def bases(model: str, found: Traced) -> Iterator[dict[str, Shape]]:
    """The model as a base, in each layout that says which rows are whose."""
    if (
        model != "lumina2"
    ):  # has fewer keys than queries, and the fused weight does not say how many
        yield original_base(found)
    yield {name: tuple(tensor.shape) for name, tensor in found.converted.items()}


def matrices(found: Traced) -> tuple[dict[str, Shape], dict[str, Shape]]:
    """The original weights that diffusers has, and these."""
    rows = places(found)
    used = {source for source, _ in rows.values()}
    originals = {name: tuple(tag.shape) for name, tag in found.tagged.items() if name in used}
    return originals, {name: tuple(found.converted[name].shape) for name in rows}


@each_model
def test_an_original_update_is_cut_as_diffusers_cuts_the_weight(model: str) -> None:
    found = traced(model)
    rows = places(found)
    original = adapter("comfyui", matrices(found)[0])
    before = added(original)
    for base in bases(model, found):
        after = respelled(original, "diffusers", base)
        assert after.keys() == rows.keys()
        for name, (source, own) in rows.items():
            assert torch.equal(after[name], before[source][own]), name


@each_model
def test_updates_of_diffusers_are_fused_as_it_cuts_the_weight(model: str) -> None:
    """Also where the adapter has updates of only some parts of a fused weight."""
    found = traced(model)
    rows = places(found)
    originals, shapes = matrices(found)
    shapes = {name: shape for at, (name, shape) in enumerate(shapes.items()) if at % 5}
    parts = adapter("diffusers", shapes)
    expected = {
        source: torch.zeros(originals[source]).flatten(1).double()
        for source in dict.fromkeys(rows[name][0] for name in shapes)
    }
    for name, delta in added(parts).items():
        source, own = rows[name]
        expected[source][own] = delta
    after = respelled(parts, "peft", original_base(found))
    assert after.keys() == expected.keys()
    for name, delta in after.items():
        assert torch.equal(delta, expected[name]), name


@pytest.mark.parametrize("model", ["sdxl", "flux1", "sd3", "lumina2", "hunyuan_video"])
def test_an_update_that_is_cut_and_fused_again_is_the_same(model: str) -> None:
    found = traced(model)
    whole = adapter("comfyui", matrices(found)[0])
    base = {name: tuple(tensor.shape) for name, tensor in found.converted.items()}
    parts = read_back(whole, "diffusers", base)
    again = read_back(parts, "peft", original_base(found))
    assert again.updates.keys() == {name.partition(".")[2] for name in whole.updates}
    for name, update in whole.updates.items():
        other = again.updates[name.partition(".")[2]]
        assert present(other.delta.low_rank).rank == present(update.delta.low_rank).rank
        assert torch.equal(dense(other), dense(update))
