"""An adapter in any program's spelling is found in a base of either layout, with its rows."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, final

import pytest
import torch

from loratools.adapter import Adapter
from loratools.errors import MatchError
from loratools.formats import decode
from loratools.io.bundle import Bundle
from loratools.io.source import Held
from loratools.names.architectures import recognised
from loratools.names.matching import BaseNames, Match
from loratools.names.patterns import depths_of
from loratools.names.rules import Side, parse_rules
from tests.names.key_lists import MODELS as LISTED
from tests.names.key_lists import key_list
from tests.names.spelled import MODELS, SIDES, Spelling, spelled

Shape = tuple[int, ...]
#: By the name of a base tensor, runs of rows: the first row of the update, of the tensor, how many.
Runs = dict[str, list[tuple[int, int, int]]]
RANK = 2
#: Models that have the modules of another one, in other shapes.
ALIKE = {"sd2": "sd1"}
#: Models that have all modules of another one that adapters change, in the same shapes.
CONTAINED = {("flux1", "chroma"), ("wan21_i2v", "wan21_t2v"), ("wan21_vace", "wan21_t2v")}


@final
class Component(NamedTuple):
    """A model in a base, with the root of its names and their side."""

    model: str
    root: str
    side: Side


#: Text encoders of single files and of folders, by the model that is beside them.
ENCODERS = {
    "sd1": (
        [Component("clip_l", "cond_stage_model.transformer.", "diffusers")],
        [Component("clip_l", "text_encoder.", "original")],
    ),
    "sd2": (
        [Component("openclip_h", "cond_stage_model.model.", "original")],
        [Component("openclip_h", "text_encoder.", "diffusers")],
    ),
    "sdxl": (
        [
            Component("clip_l", "conditioner.embedders.0.transformer.", "diffusers"),
            Component("openclip_g", "conditioner.embedders.1.model.", "original"),
        ],
        [
            Component("clip_l", "text_encoder.", "diffusers"),
            Component("openclip_g", "text_encoder_2.", "diffusers"),
        ],
    ),
    "sd3": (
        [
            Component("clip_l", "text_encoders.clip_l.transformer.", "diffusers"),
            Component("openclip_g", "text_encoders.clip_g.transformer.", "diffusers"),
            Component("t5_xxl", "text_encoders.t5xxl.transformer.", "diffusers"),
        ],
        [
            Component("clip_l", "text_encoder.", "original"),
            Component("openclip_g", "text_encoder_2.", "diffusers"),
            Component("t5_xxl", "text_encoder_3.", "diffusers"),
        ],
    ),
    "flux1": (
        [],
        [
            Component("clip_l", "text_encoder.", "diffusers"),
            Component("t5_xxl", "text_encoder_2.", "diffusers"),
        ],
    ),
}
DENOISERS = [*(m for m in MODELS if m not in ("clip_l", "openclip_g", "openclip_h", "t5_xxl"))]
DENOISERS += ALIKE


@cache
def tensors(model: str, side: Side) -> Mapping[str, Shape]:
    """The tensors of a model by their names on a side."""
    found = key_list(model)
    if side == "original":
        return found.tensors
    rules, depths = parse_rules(found.rules_text())[1], depths_of(found.tensors)
    others: dict[str, Shape] = {}
    for name, shape in found.tensors.items():
        for part in rules.parts(name, depths) or ():
            rows = part.rows.part_rows(shape[0]) if shape else None
            if part.rows.is_transposed or not shape:
                others[part.diffusers] = shape[::-1]
            else:
                others[part.diffusers] = (rows or _grouped(model, part.diffusers), *shape[1:])
    return others


def _grouped(model: str, name: str) -> int:
    """The rows of a part for heads in groups, how many of which there are the rules do not say."""
    sizes = {
        re.sub(r"\d+", "#", f"{pair.diffusers}.weight"): end - begin
        for pair in spelled(model).pairs
        for begin, end in pair.ranges
    }
    return sizes[re.sub(r"\d+", "#", name)]


def weight(model: str, side: Side, module: str) -> str:
    """The name of a module's weight; attention in OpenCLIP has parameters instead."""
    return module if module in tensors(model, side) else f"{module}.weight"


@cache
def base(components: tuple[Component, ...]) -> BaseNames:
    """The names of a base that consists of these models."""
    return BaseNames(
        {
            f"{component.root}{name}": shape
            for component in components
            for name, shape in tensors(component.model, component.side).items()
        }
    )


def bases(model: str) -> Iterator[tuple[Component, ...]]:
    """Bases with a denoiser: single files and folders with text encoders, and files without."""
    component = "unet." if model in ("sd1", "sd2", "sdxl") else "transformer."
    file, folder = ENCODERS.get(model, ([], []))
    yield (Component(model, "model.diffusion_model.", "original"), *file)
    yield (Component(model, component, "diffusers"), *folder)
    for side in SIDES:
        yield (Component(model, "", side),)


def shape_of(spelling: Spelling, model: str, own: str) -> Shape:
    """The shape of the weight that a program calls so."""
    side, module = spelling.modules[own]
    return tensors(model, side)[weight(model, side, module)]


@cache
def targets(model: str, spelling: int) -> dict[str, tuple[str, Shape]]:
    """What a program's modules are called once the adapter is read, with the updates' shapes."""
    how = spelled(ALIKE.get(model, model)).spellings[spelling]
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK} if how.program == "PEFT" else None
    weights = {own: shape_of(how, model, own) for own in how.modules}
    updates = adapter(weights, how.suffixes, config).updates
    return {
        own: (target, update.delta.shape)
        for own, (target, update) in zip(how.modules, updates.items(), strict=True)
    }


def adapter(
    weights: Mapping[str, Shape], suffixes: Sequence[str], config: dict[str, Any] | None = None
) -> Adapter:
    """An adapter of the modules with weights of these shapes, by a program's names of them."""
    down, up, *alpha = suffixes
    shapes: dict[str, Shape] = {}
    for own, (rows, columns, *kernel) in weights.items():
        shapes[f"{own}{down}"] = (RANK, columns, *kernel)
        shapes[f"{own}{up}"] = (rows, RANK, *(1 for _ in kernel))
        shapes.update((f"{own}{suffix}", ()) for suffix in alpha)
    held = {key: Held(key, torch.ones(()).expand(shape), "F32") for key, shape in shapes.items()}
    return decode(Bundle("here", held, {}, config, (), 0))


def expected(model: str, side: Side, module: str, component: Component) -> Runs:
    """The rows of base tensors that the rows of a module's update belong to."""
    name = weight(model, side, module)
    if side == component.side:
        return {f"{component.root}{name}": [(0, 0, tensors(model, side)[name][0])]}
    runs: Runs = {}
    for pair in spelled(ALIKE.get(model, model)).pairs:
        if pair.name(side) == module:
            original = weight(model, "original", pair.original)
            count = tensors(model, "original")[original][0]
            other = weight(model, component.side, pair.name(component.side))
            at = 0
            for begin, end in pair.ranges or ((0, count),):
                its = (begin, at) if side == "original" else (at, begin)
                runs.setdefault(f"{component.root}{other}", []).append((*its, end - begin))
                at += end - begin
    return {name: sorted(some) for name, some in runs.items()}


def found(match: Match) -> Runs:
    return {
        place.name: sorted((place.begin + run.begin, run.at, run.count) for run in place.runs)
        for place in match.places
    }


def each_spelling(model: str) -> Iterator[tuple[int, Spelling]]:
    yield from enumerate(spelled(ALIKE.get(model, model)).spellings)


def is_meant(component: Component, spelling: Spelling) -> bool:
    """Whether a program means this model of a base: OneTrainer means FLUX.1's T5 by `lora_te2_`."""
    is_t5_of_onetrainer = (component.model, spelling.program) == ("t5_xxl", "OneTrainer")
    return not is_t5_of_onetrainer or component.root == "text_encoder_2."


@pytest.mark.parametrize("denoiser", DENOISERS)
def test_every_module_is_found_in_either_layout_with_its_rows(denoiser: str) -> None:
    for components in bases(denoiser):
        for component in components:
            model = component.model
            for number, spelling in each_spelling(model):
                if not is_meant(component, spelling):
                    continue
                for own, (target, shape) in targets(model, number).items():
                    side, module = spelling.modules[own]
                    match = base(components).match(target, shape)
                    assert found(match) == expected(model, side, module, component), target


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("denoiser", DENOISERS)
def test_names_without_a_prefix_are_read_whichever_model_has_them(
    denoiser: str, side: Side
) -> None:
    weights = {
        name.removesuffix(".weight"): shape
        for name, shape in tensors(denoiser, side).items()
        if name.endswith(".weight") and len(shape) > 1
    }
    for suffixes in (
        (".lora_A.weight", ".lora_B.weight"),
        (".lora_down.weight", ".lora_up.weight"),
    ):
        updates = adapter(weights, suffixes).updates
        assert list(updates) == [f"{name}.weight" for name in weights]


@pytest.mark.parametrize("model", LISTED)
def test_a_model_is_recognised_by_its_names_in_either_layout(model: str) -> None:
    fields, rules = parse_rules(key_list(model).rules_text())
    for side in SIDES:
        it = recognised(tensors(model, side))
        assert it is not None
        if model in ("openclip_g", "openclip_h") and it.architecture.name == "CLIP":
            continue  # transformers has the same class for both
        assert it.architecture.rules == rules
        assert it.side == side or fields.get("sides") == "common | common"


def is_refused(names: BaseNames, target: str, shape: Shape) -> bool:
    """Whether a target is not found; the error must say what the base is."""
    reason = ""
    try:
        names.match(target, shape)
    except MatchError as error:
        reason = str(error)
    assert names.words is not None
    assert not reason or names.words in reason
    return reason != ""


@pytest.mark.parametrize("denoiser", DENOISERS)
def test_an_update_of_another_shape_is_refused_with_what_the_base_is(denoiser: str) -> None:
    target, (rows, columns, *kernel) = next(iter(targets(denoiser, 0).values()))
    for components in bases(denoiser):
        assert not is_refused(base(components), target, (rows, columns, *kernel))
        assert is_refused(base(components), target, (rows + 1, columns, *kernel))
        assert is_refused(base(components), target, (rows, columns + 1, *kernel))


@pytest.mark.parametrize("denoiser", DENOISERS)
def test_an_adapter_for_another_model_is_refused_with_what_the_base_is(denoiser: str) -> None:
    single_file = base(next(bases(denoiser)))
    for other in DENOISERS:
        if other != denoiser:
            for number in range(2):  # by the original names and by diffusers'
                updates = targets(other, number).values()
                is_found = not any(is_refused(single_file, *update) for update in updates)
                assert is_found == ((denoiser, other) in CONTAINED), other


@pytest.mark.parametrize("target", ["diffusion_model.", "lora_unet_", ""])
def test_a_module_of_two_models_of_a_base_is_refused_with_both_names(target: str) -> None:
    two = base(tuple(Component("wan21_t2v", f"transformer{n}.", "diffusers") for n in ("", "_2")))
    module = "blocks.0.self_attn.q"
    target += module.replace(".", "_") if target.endswith("_") else module
    with pytest.raises(MatchError, match="several base tensors fit equally well") as refusal:
        two.match(f"{target}.weight", (5120, 5120))
    for root in ("transformer.", "transformer_2."):
        assert f"{root}blocks.0.attn1.to_q.weight" in str(refusal.value)
