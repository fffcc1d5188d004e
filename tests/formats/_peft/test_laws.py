"""Whatever an adapter's config and tensors are, it is decoded whole or refused on purpose."""

from collections.abc import Mapping
from itertools import product
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loratools.adapter import Adapter
from loratools.deltas import keys_of
from loratools.errors import LoratoolsError
from loratools.formats import decode
from loratools.formats._peft.updates import Decoder
from loratools.io.bundle import Bundle
from tests.formats.bundles import PREFIX, bundle, config, lora

SHAPES = {
    **lora("layers.0.q"),
    f"{PREFIX}tok.token_adapter.trainable_tokens_delta": (2, 3),
    f"{PREFIX}head.weight": (2, 3),
    f"{PREFIX}layers.0.q.base_layer.bias": (4,),
}
FIELDS = [
    "peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora",
    "bias", "lora_bias", "fan_in_fan_out", "target_modules", "exclude_modules", "modules_to_save",
    "trainable_token_indices", "init_lora_weights", "enable_lora", "use_bdlora", "kasa_config",
    "layer_replication", "target_parameters", "alora_invocation_tokens", "peft_version",
    "base_model_name_or_path", "revision", "task_type",
]  # fmt: skip
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4)
)
NAMES = st.sampled_from(["q", "layers.0.q", "tok", "head", ".*", "(", "nblocks"]) | st.text(
    max_size=3
)
JSON = st.recursive(
    SCALARS | NAMES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(NAMES | st.sampled_from(FIELDS), inner, max_size=3)
    ),
    max_leaves=5,
)


def decoded_or_refused(shapes: Mapping[str, tuple[int, ...]], fields: Any) -> Adapter | None:
    try:
        return decode(bundle(shapes, fields))
    except LoratoolsError:
        return None


@given(fields=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4))
@example(fields={"use_bdlora": {"target_modules_bd_a": 3, "nblocks": 2}})
@example(fields={"use_bdlora": {"target_modules_bd_a": ["q"], "nblocks": 10**30}})
@example(fields={"rank_pattern": {"q": 10**300}, "use_rslora": True})
@example(fields={"lora_alpha": 10**300, "r": 10**300})
@example(fields={"enable_lora": [False]})
@example(fields={"trainable_token_indices": {"tok": {}}})
@example(fields={"peft_version": "9" * 5000})
@example(fields={"alpha_pattern": {"(q|q)*(q|q)*": 3}})
def test_any_config_is_decoded_or_refused(fields: dict[str, Any]) -> None:
    decoded_or_refused(SHAPES, config(trainable_token_indices=[0, 1]) | fields)


def keyed(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {PREFIX + key: shape for key, shape in shapes.items()}


GROUPS = (
    lora("layers.0.q"),
    lora("layers.0.k") | keyed({"layers.0.k.lora_magnitude_vector": (4,)}),
    lora("layers.0.v") | keyed({"layers.0.v.lora_diag": (2,)}),
    lora("layers.0.o") | keyed({"layers.0.o.lora_B.bias": (4,)}),
    keyed({"conv.lora_A.default.weight": (2, 3, 5), "conv.lora_B.default.weight": (4, 2, 1)}),
    keyed({"tok.lora_embedding_A": (2, 7), "tok.lora_embedding_B": (3, 2)}),
    keyed({"tok.base_layer.weight": (7, 3)}),
    keyed({"pos.token_adapter.trainable_tokens_delta": (2, 3)}),
    keyed({"head.weight": (2, 3), "head.modules_to_save.weight": (2, 3)}),
    keyed({"head.original_module.weight": (2, 3)}),
    keyed({"layers.0.q.lora_monteclora_sampler.mu": (3,)}),
    keyed({"layers.0.norm.bias": (3,)}),
    lora("mha", rows=9) | lora("mha.base_layer.out_proj", rows=3),
    keyed({"mha.lora_B.bias": (9,)}),
)
PARTS = st.sampled_from(
    [
        "lora_A.weight", "lora_B.weight", "lora_A", "lora_B.default.weight", "lora_B.bias",
        "lora_embedding_A", "lora_magnitude_vector", "lora_diag", "lora_A.bias", "lora_E", "bias",
        "trainable_tokens_delta", "token_adapter.trainable_tokens_delta", "base_layer.weight",
        "modules_to_save.default.weight", "original_module.weight", "weight",
    ]
)  # fmt: skip
MODULES = st.sampled_from(["layers.0.q", "tok", "mha", "mha.base_layer.out_proj", "new", ""])
KEYS = st.builds(
    "{}{}.{}".format, st.sampled_from([PREFIX, "", PREFIX * 2]), MODULES, PARTS
) | st.text(max_size=5)
SIZES = st.lists(st.integers(0, 3), max_size=4).map(tuple)


@given(
    groups=st.lists(st.sampled_from(GROUPS), max_size=5),
    other=st.dictionaries(KEYS, SIZES, max_size=1),
    blocks=st.sampled_from([None, {"target_modules_bd_a": ["q"], "nblocks": 2}]),
    enabled=st.none() | st.lists(st.booleans(), max_size=3),
)
def test_every_tensor_is_accounted_for_once_or_the_adapter_is_refused(
    groups: list[dict[str, tuple[int, ...]]],
    other: dict[str, tuple[int, ...]],
    blocks: object,
    enabled: object,
) -> None:
    shapes = {key: shape for group in [*groups, other] for key, shape in group.items()}
    fields = {"modules_to_save": ["head"], "trainable_token_indices": [5, 6]}
    adapter = decoded_or_refused(shapes, config(use_bdlora=blocks, enable_lora=enabled, **fields))
    if adapter is None:
        return
    used = [key for update in adapter.updates.values() for key in keys_of(update.delta)]
    used += [key for r in adapter.replaced.values() for key in r.source.keys]
    used += [key for rows in adapter.rows.values() for key in rows.rows.keys]
    used += [key for copy in adapter.copies for key in copy.source.keys]
    used += list(adapter.inert)
    assert sorted(used) == sorted(shapes)


def described(adapter: Adapter) -> list[object]:
    """Its updates and notes, in a form that can be compared."""
    return [
        *(
            (target, update.delta.kind, update.delta.shape, update.delta.low_rank.scaling,
             [(source.keys, source.shape) for source in update.delta.sources],
             update.fan_in_fan_out, update.is_embedding)
            for target, update in adapter.updates.items()
            if update.delta.low_rank
        ),
        *adapter.notes,
        *adapter.inert,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"fan_in_fan_out": True},
        {"rank_pattern": {"q": 1}},
        {"alpha_pattern": {"q": 3}},
        {"enable_lora": [True, False, True]},
        {"ensure_weight_tying": True},
        {"use_bdlora": {"target_modules_bd_a": ["q"], "nblocks": 2}},
    ],
    ids=str,
)
def test_the_fast_decoding_of_a_pair_is_that_of_every_module(fields: dict[str, Any]) -> None:
    modules = ("q", "attn.base_layer.out_proj", "attn", "q.base_layer")
    downs: tuple[tuple[int, ...], ...] = ((2, 3), (1, 3), (2, 3, 1, 1), (3,), (0, 3))
    ups: tuple[tuple[int, ...], ...] = ((4, 2), (4, 1), (4, 2, 1, 1), (2,))
    extras = ("", "lora_magnitude_vector", "lora_B.bias")
    for module, down, up, extra in product(modules, downs, ups, extras):
        shapes = {f"{PREFIX}{module}.lora_A.weight": down, f"{PREFIX}{module}.lora_B.weight": up}
        if extra:
            shapes[f"{PREFIX}{module}.{extra}"] = (4,)
        stored = bundle({**shapes, **lora("other")}, config(**fields))
        found = outcome(stored)
        with patch.object(Decoder, "_usual_update", return_value=None):
            assert outcome(stored) == found


def outcome(stored: Bundle) -> object:
    """What an adapter is decoded into, or why it is refused."""
    try:
        return described(decode(stored))
    except LoratoolsError as error:
        return str(error)
