"""What a merge plan does with every tensor of adapters and base, and what it refuses."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import loratools
from loratools.errors import (
    FormatError,
    LoratoolsError,
    MatchError,
    NonFiniteError,
    ShapeMismatchError,
    UnsupportedError,
)
from loratools.merging.plan import MergeOptions
from tests.merged import config_of, eighths, merged, pair, update, write_adapter, write_base

Q, K = pair("layers.0.q", 4, 3, seed=1), pair("layers.0.k", 4, 3, seed=2)
WEIGHTS = {
    "model.layers.0.q.weight": eighths(4, 3),
    "model.layers.0.q.bias": eighths(4),
    "model.layers.0.k.weight": eighths(4, 3) + 1,
    "model.norm.weight": eighths(3),
    "model.steps": torch.tensor([7]),
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base", WEIGHTS, {"model_type": "llama"})


def equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


class TestWeights:
    def test_updates_are_added_and_everything_else_is_left(self, base: Path) -> None:
        adapter = write_adapter(base.parent / "adapter", Q)
        tensors, report = merged(base, adapter)
        expected = dict(WEIGHTS)
        expected["model.layers.0.q.weight"] = WEIGHTS["model.layers.0.q.weight"] + update(Q)
        assert tensors.keys() == expected.keys()
        assert all(equal(tensors[name], expected[name]) for name in expected)
        assert [change.name for change in report.plan.changed] == ["model.layers.0.q.weight"]

    def test_adapters_add_up_each_with_its_weight(self, base: Path) -> None:
        one = write_adapter(base.parent / "one", Q)
        other = pair("layers.0.q", 4, 3, seed=9)
        two = write_adapter(base.parent / "two", other, lora_alpha=4)
        tensors, _ = merged(base, one, two, weights=[0.5, -2.0])
        expected = WEIGHTS["model.layers.0.q.weight"] + update(Q) / 2 - 2 * update(other, 2)
        assert equal(tensors["model.layers.0.q.weight"], expected)

    def test_there_is_a_weight_for_every_adapter(self, base: Path) -> None:
        adapter = write_adapter(base.parent / "adapter", Q)
        with pytest.raises(LoratoolsError, match="2 weights for 1 adapter"):
            merged(base, adapter, weights=[1.0, 1.0])

    @pytest.mark.parametrize("weight", [math.nan, math.inf])
    def test_weight_that_is_no_number_writes_nothing(self, base: Path, weight: float) -> None:
        adapter = write_adapter(base.parent / "adapter", Q)
        with pytest.raises(LoratoolsError):
            merged(base, adapter, weights=[weight])
        assert not (base.parent / "merged").exists()

    def test_dora_is_not_taken_out_by_a_negative_weight(self, base: Path) -> None:
        magnitude = {"layers.0.q.lora_magnitude_vector": torch.ones(4)}
        adapter = write_adapter(base.parent / "adapter", Q | magnitude)
        with pytest.raises(UnsupportedError, match="DoRA depends on the weight it changed"):
            merged(base, adapter, weights=[-1.0])

    def test_doras_act_one_after_the_other(self, base: Path) -> None:
        """Magnitudes of 2 and then of 1: the rows of the result have the norm 1."""
        adapters = [
            write_adapter(
                base.parent / str(norm),
                Q | {"layers.0.q.lora_magnitude_vector": torch.full((4,), norm)},
            )
            for norm in (2.0, 1.0)
        ]
        tensors, _ = merged(base, *adapters)
        norms = tensors["model.layers.0.q.weight"].double().norm(dim=1)
        assert torch.allclose(norms, torch.ones(4).double(), rtol=0, atol=4 * 2.0**-24)


class TestReplaced:
    BIAS = {"layers.0.q.base_layer.bias": eighths(4) - 1}  # noqa: RUF012
    HEAD = {"score.weight": eighths(2, 3)}  # noqa: RUF012

    def test_trained_bias_takes_the_place_of_the_bases(self, base: Path) -> None:
        adapter = write_adapter(base.parent / "adapter", Q | self.BIAS, bias="lora_only")
        tensors, _ = merged(base, adapter)
        assert equal(tensors["model.layers.0.q.bias"], self.BIAS["layers.0.q.base_layer.bias"])

    def test_bias_of_the_update_is_added_to_the_trained_one(self, base: Path) -> None:
        added = {"layers.0.q.lora_B.bias": eighths(4)}
        adapter = write_adapter(base.parent / "adapter", Q | self.BIAS | added, bias="lora_only")
        tensors, _ = merged(base, adapter)
        expected = self.BIAS["layers.0.q.base_layer.bias"] + eighths(4) / 2
        assert equal(tensors["model.layers.0.q.bias"], expected)

    def test_whole_tensor_has_no_weight_but_one(self, base: Path) -> None:
        adapter = write_adapter(base.parent / "adapter", Q | self.BIAS, bias="lora_only")
        with pytest.raises(UnsupportedError, match=r"no weight of 0\.5; leave it out with skip="):
            merged(base, adapter, weights=[0.5])
        options = MergeOptions(skip=("*.bias",))
        tensors, report = merged(base, adapter, weights=[0.5], options=options)
        assert equal(tensors["model.layers.0.q.bias"], WEIGHTS["model.layers.0.q.bias"])
        assert len(report.plan.accounting.skipped) == 1

    @pytest.mark.parametrize(("wide", "expected"), [(40, torch.float32), (4, torch.bfloat16)])
    def test_new_tensor_has_the_dtype_of_most_bytes_of_the_base(
        self, tmp_path: Path, wide: int, expected: torch.dtype
    ) -> None:
        """62 bytes in four tensors of bfloat16, against one of float32 with 160 bytes, or 16."""
        halves = {name: t.bfloat16() for name, t in WEIGHTS.items() if t.is_floating_point()}
        base = write_base(tmp_path / "base", {"wide.weight": eighths(wide), **halves})
        assert sum(t.nbytes for t in halves.values()) == 62
        adapter = write_adapter(tmp_path / "adapter", Q | self.HEAD, modules_to_save=["score"])
        tensors, _ = merged(base, adapter)
        assert tensors["score.weight"].dtype == expected

    def test_new_head_comes_last_in_the_dtype_of_the_base(self, tmp_path: Path) -> None:
        halves = {n: t.bfloat16() if t.is_floating_point() else t for n, t in WEIGHTS.items()}
        base = write_base(tmp_path / "base", halves)
        adapter = write_adapter(tmp_path / "adapter", Q | self.HEAD, modules_to_save=["score"])
        tensors, report = merged(base, adapter)
        assert equal(tensors["score.weight"], self.HEAD["score.weight"].bfloat16())
        assert list(report.plan.tensors)[-1] == "score.weight"
        assert "score.weight: new, the base has no such tensor" in report.plan.notes

    def test_head_of_another_shape_replaces_and_is_noted(self, tmp_path: Path) -> None:
        base = write_base(tmp_path / "base", WEIGHTS | {"score.weight": eighths(5, 3)})
        adapter = write_adapter(tmp_path / "adapter", Q | self.HEAD, modules_to_save=["score"])
        tensors, report = merged(base, adapter)
        assert equal(tensors["score.weight"], self.HEAD["score.weight"])
        assert report.plan.notes[0] == "score.weight: the shape changes from [5, 3] to [2, 3]"

    def test_two_adapters_may_replace_one_tensor_by_the_same(self, base: Path) -> None:
        one = write_adapter(base.parent / "one", Q | self.HEAD, modules_to_save=["score"])
        two = write_adapter(base.parent / "two", K | self.HEAD, modules_to_save=["score"])
        tensors, _ = merged(base, one, two)
        assert equal(tensors["score.weight"], self.HEAD["score.weight"])

    def test_two_adapters_that_replace_one_tensor_by_others_are_refused(self, base: Path) -> None:
        one = write_adapter(base.parent / "one", Q | self.HEAD, modules_to_save=["score"])
        other = {"score.weight": eighths(2, 3) + 1}
        two = write_adapter(base.parent / "two", K | other, modules_to_save=["score"])
        with pytest.raises(FormatError, match=r"two: score\.weight would replace what an adapter"):
            merged(base, one, two)

    def test_what_was_changed_is_not_replaced(self, base: Path) -> None:
        one = write_adapter(base.parent / "one", Q)
        whole = {"layers.0.q.weight": eighths(4, 3), "layers.0.q.bias": eighths(4)}
        two = write_adapter(base.parent / "two", whole, modules_to_save=["q"])
        with pytest.raises(FormatError, match="would replace what an adapter before it"):
            merged(base, one, two)
        tensors, _ = merged(base, two, one)
        assert equal(tensors["model.layers.0.q.weight"], eighths(4, 3) + update(Q))

    def test_copies_that_differ_are_refused(self, base: Path) -> None:
        stored = {"score.weight": eighths(2, 3), "score.modules_to_save.weight": eighths(2, 3) + 1}
        adapter = write_adapter(base.parent / "adapter", Q | stored, modules_to_save=["score"])
        with pytest.raises(FormatError, match="should be the same and are not"):
            merged(base, adapter)

    def test_copies_that_agree_count_once(self, base: Path) -> None:
        stored = {"score.weight": eighths(2, 3), "score.modules_to_save.weight": eighths(2, 3)}
        adapter = write_adapter(base.parent / "adapter", Q | stored, modules_to_save=["score"])
        _, report = merged(base, adapter)
        assert [*report.plan.accounting.inert.values()] == ["repeats base_model.model.score.weight"]

    @pytest.mark.parametrize(
        "weights",
        [
            pytest.param({"head.batches": torch.tensor([5])}, id="replaced"),
            pytest.param({}, id="new"),
        ],
    )
    def test_trained_module_may_count_in_integers(
        self, tmp_path: Path, weights: dict[str, Tensor]
    ) -> None:
        """As a BatchNorm counts its batches."""
        base = write_base(tmp_path / "base", WEIGHTS | weights)
        stored = {"head.weight": eighths(3), "head.batches": torch.tensor([9])}
        adapter = write_adapter(tmp_path / "adapter", Q | stored, modules_to_save=["head"])
        tensors, _ = merged(base, adapter)
        assert equal(tensors["head.batches"], torch.tensor([9]))


class TestOverlap:
    """Rows of the table `model.layers.0.k` (4 x 3), of two adapters."""

    @staticmethod
    def rows(folder: Path, values: torch.Tensor, *indices: int) -> Path:
        stored = {"layers.0.k.trainable_tokens_delta": values}
        return write_adapter(folder, Q | stored, trainable_token_indices=list(indices))

    def test_rows_that_two_adapters_train_are_refused(self, base: Path) -> None:
        values = eighths(2, 3)
        one = self.rows(base.parent / "one", values, 3, 1)
        two = self.rows(base.parent / "two", values, 1, 2)
        for adapters in ([one, two], [two, one]):
            with pytest.raises(UnsupportedError, match=r"trains rows 1 that an adapter before it"):
                merged(base, *adapters)

    def test_equal_rows_may_be_trained_twice(self, base: Path) -> None:
        values = eighths(2, 3)
        one = self.rows(base.parent / "one", values, 3, 1)
        two = self.rows(base.parent / "two", values.flip(0), 1, 3)
        tensors, _ = merged(base, one, two)
        assert equal(tensors["model.layers.0.k.weight"][[3, 1]], values)

    def test_equal_rows_that_do_not_count_whole_are_refused(self, base: Path) -> None:
        """Half way twice is three quarters of the way, and no sum."""
        one = self.rows(base.parent / "one", eighths(2, 3), 3, 1)
        with pytest.raises(UnsupportedError, match="trains rows 1, 3 that"):
            loratools.merge(base, [one, one], output=None, weights=[0.5, 0.5])

    def test_other_rows_are_merged_in_any_order(self, base: Path) -> None:
        one = self.rows(base.parent / "one", eighths(1, 3), 3)
        two = self.rows(base.parent / "two", eighths(1, 3), 0)
        tensors, _ = merged(base, one, two)
        swapped, _ = merged(base, two, one, output=base.parent / "swapped")
        assert equal(tensors["model.layers.0.k.weight"], swapped["model.layers.0.k.weight"])

    def test_rows_of_a_tensor_that_is_replaced_whole_are_refused(self, base: Path) -> None:
        table = eighths(4, 3)
        whole = write_adapter(
            base.parent / "whole", Q | {"layers.0.k.weight": table}, modules_to_save=["k"]
        )
        other = self.rows(base.parent / "other", table[:1] + 1, 2)
        with pytest.raises(UnsupportedError, match="trains rows 2 of a tensor that is replaced"):
            merged(base, whole, other)
        with pytest.raises(FormatError, match="would replace what an adapter before it has"):
            merged(base, other, whole)
        equal_rows = self.rows(base.parent / "equal", table[2:3], 2)
        tensors, _ = merged(base, whole, equal_rows)
        assert equal(tensors["model.layers.0.k.weight"], table)

    def test_rows_do_not_undo_an_update_of_an_adapter_before(self, base: Path) -> None:
        update_of_all = write_adapter(base.parent / "update", K)
        other = self.rows(base.parent / "other", eighths(1, 3), 2)
        with pytest.raises(UnsupportedError, match="its rows would replace what an adapter before"):
            merged(base, update_of_all, other)
        merged(base, other, update_of_all)


class TestSelection:
    @pytest.mark.parametrize(
        ("options", "changed"),
        [
            ({}, ["q", "k"]),
            ({"only": ("*.q.weight",)}, ["q"]),
            ({"only": ("layers.0.q.*",)}, ["q"]),  # the adapter's name for it
            ({"only": ("model.layers.0.q.*",)}, ["q"]),  # the base's name for it
            ({"skip": ("*.q.weight",)}, ["k"]),
            ({"only": ("*.weight",), "skip": ("*.k.*",)}, ["q"]),
            ({"only": ("*[qk].weight",)}, ["q", "k"]),
        ],
        ids=str,
    )
    def test_globs_choose_by_either_name(
        self, base: Path, options: dict[str, Any], changed: list[str]
    ) -> None:
        adapter = write_adapter(base.parent / "adapter", Q | K)
        tensors, report = merged(base, adapter, options=MergeOptions(**options))
        found = [
            n
            for n in "qk"
            if not equal(
                tensors[f"model.layers.0.{n}.weight"], WEIGHTS[f"model.layers.0.{n}.weight"]
            )
        ]
        assert found == changed
        assert len(report.plan.accounting.skipped) == 2 * (2 - len(changed))
        assert report.plan.accounting.total == 4

    def test_selecting_nothing_is_refused(self, base: Path) -> None:
        adapter = write_adapter(base.parent / "adapter", Q)
        with pytest.raises(MatchError, match="no adapter tensor is left to apply"):
            merged(base, adapter, options=MergeOptions(skip=("*",)))

    @pytest.mark.parametrize("field", ["only", "skip"])
    def test_glob_that_matches_no_target_is_refused_with_the_nearest(
        self, base: Path, field: str
    ) -> None:
        adapter = write_adapter(base.parent / "adapter", Q)
        globs: Any = {field: ("*.q.*", "*.qq.*")}
        with pytest.raises(
            MatchError, match=rf"{field}=\['\*.qq.\*'\] matches no target; nearest: .*q"
        ):
            merged(base, adapter, options=MergeOptions(**globs))

    def test_glob_has_to_match_in_one_of_several_adapters(self, base: Path) -> None:
        adapters = [write_adapter(base.parent / n, t) for n, t in (("q", Q), ("k", K))]
        _, report = merged(base, *adapters, options=MergeOptions(skip=("*.k.*",)))
        assert len(report.plan.accounting.skipped) == 2

    def test_update_without_a_weight_is_refused_and_counted(self, base: Path) -> None:
        strange = pair("layers.7.q", 4, 3) | pair("layers.8.q", 4, 3)
        adapter = write_adapter(base.parent / "adapter", Q | strange)
        with pytest.raises(MatchError, match=r"layers\.7\.q.*and 1 more without a match"):
            merged(base, adapter)

    def test_update_without_a_weight_is_left_out_when_asked(self, base: Path) -> None:
        adapter = write_adapter(base.parent / "adapter", Q | pair("layers.7.q", 4, 3))
        tensors, report = merged(base, adapter, options=MergeOptions(allow_unmatched=True))
        expected = WEIGHTS["model.layers.0.q.weight"] + update(Q)
        assert equal(tensors["model.layers.0.q.weight"], expected)
        assert len(report.plan.accounting.unmatched) == 2
        assert any(note.startswith("left out: layers.7.q") for note in report.plan.notes)

    def test_two_targets_that_mean_one_weight_are_refused(self, base: Path) -> None:
        adapter = write_adapter(base.parent / "adapter", Q | pair("model.layers.0.q", 4, 3))
        with pytest.raises(MatchError, match=r"both mean model\.layers\.0\.q\.weight"):
            merged(base, adapter)

    def test_refusal_of_the_adapter_is_one_of_the_merge(self, base: Path) -> None:
        adapter = write_adapter(base.parent / "adapter", Q, use_qalora=True)
        with pytest.raises(
            UnsupportedError, match=r"adapter/adapter_config\.json: use_qalora: QA-LoRA"
        ):
            merged(base, adapter)

    def test_whole_tensor_of_the_base_that_the_base_lacks_is_unmatched(self, base: Path) -> None:
        """Not trained, and so part of another base."""
        strange = {"layers.0.z.base_layer.weight": eighths(2, 2)}
        adapter = write_adapter(base.parent / "adapter", Q | strange)
        with pytest.raises(MatchError, match=r"layers\.0\.z\.weight: no such tensor in the base"):
            merged(base, adapter)
        _, report = merged(base, adapter, options=MergeOptions(allow_unmatched=True))
        assert len(report.plan.accounting.unmatched) == 1

    @pytest.mark.parametrize(("module", "group"), [("layers.0.k", "skipped"), ("z", "unmatched")])
    def test_rows_are_selected_and_matched_as_updates_are(
        self, base: Path, module: str, group: str
    ) -> None:
        rows = {f"{module}.trainable_tokens_delta": eighths(1, 3)}
        adapter = write_adapter(base.parent / "adapter", Q | rows, trainable_token_indices=[1])
        options = MergeOptions(skip=("*.k.weight",), allow_unmatched=True)
        tensors, report = merged(base, adapter, options=options)
        found = getattr(report.plan.accounting, group)
        assert found == [f"0: base_model.model.{next(iter(rows))}"]
        assert equal(tensors["model.layers.0.k.weight"], WEIGHTS["model.layers.0.k.weight"])

    def test_rows_that_are_skipped_need_no_counterpart(self, base: Path) -> None:
        rows = {"z.trainable_tokens_delta": eighths(1, 3)}
        adapter = write_adapter(base.parent / "adapter", Q | rows, trainable_token_indices=[1])
        _, report = merged(base, adapter, options=MergeOptions(skip=("z.*",)))
        assert len(report.plan.accounting.skipped) == 1

    def test_rows_beyond_the_table_are_refused(self, base: Path) -> None:
        rows = {"layers.0.k.trainable_tokens_delta": eighths(1, 3)}
        adapter = write_adapter(base.parent / "adapter", Q | rows, trainable_token_indices=[4])
        with pytest.raises(ShapeMismatchError, match="up to index 4 do not fit"):
            merged(base, adapter)

    def test_numbers_do_not_replace_codes(self, base: Path) -> None:
        stored = {"norm.steps": eighths(1)}
        base = write_base(base.parent / "other", WEIGHTS | {"norm.steps": torch.tensor([7])})
        adapter = write_adapter(base.parent / "adapter", Q | stored, modules_to_save=["norm"])
        with pytest.raises(FormatError, match=r"norm\.steps is F32, and I64 in the base"):
            merged(base, adapter)

    def test_codes_are_not_updated(self, tmp_path: Path) -> None:
        base = write_base(tmp_path / "base", {"layers.0.q.weight": torch.ones(4, 3).to(torch.int8)})
        adapter = write_adapter(tmp_path / "adapter", Q)
        with pytest.raises(LoratoolsError, match=r"layers\.0\.q\.weight"):
            merged(base, adapter)


class TestOrientation:
    """A weight that is stored as (in, out), where the shape tells it and where it does not."""

    @pytest.mark.parametrize("claimed", [True, False])
    def test_shape_tells_whatever_the_config_claims(self, tmp_path: Path, claimed: bool) -> None:
        weight = eighths(3, 4)
        base = write_base(tmp_path / "base", {"layers.0.q.weight": weight})
        adapter = write_adapter(tmp_path / "adapter", Q, fan_in_fan_out=claimed)
        tensors, report = merged(base, adapter)
        assert equal(tensors["layers.0.q.weight"], weight + update(Q).T)
        assert report.plan.changed[0].changes[0].is_transposed

    @pytest.mark.parametrize(
        ("others", "model_type", "claimed", "transposed"),
        [
            ({}, None, True, True),
            ({}, None, False, False),
            ({}, "gpt2", False, True),
            ({}, "bloom", True, False),
            ({"layers.0.q.weight": (3, 4)}, "bloom", False, True),
            ({"layers.0.q.weight": (4, 3)}, "gpt2", True, False),
        ],
    )
    def test_square_one_is_oriented_as_its_neighbours_or_its_model(
        self,
        tmp_path: Path,
        others: dict[str, tuple[int, int]],
        model_type: str | None,
        claimed: bool,
        transposed: bool,
    ) -> None:
        square = pair("layers.0.o", 3, 3)
        weight = eighths(3, 3)
        tensors = {"layers.0.o.weight": weight}
        tensors |= {name: eighths(*shape) for name, shape in others.items()}
        config = {"model_type": model_type} if model_type else None
        base = write_base(tmp_path / "base", tensors, config)
        factors = square | (Q if others else {})
        adapter = write_adapter(tmp_path / "adapter", factors, fan_in_fan_out=claimed)
        result, _ = merged(base, adapter)
        change = update(square)
        expected = weight + (change.T if transposed else change)
        assert equal(result["layers.0.o.weight"], expected)


TABLE = eighths(6, 3)
HEADS = {
    "embed_tokens": {
        "model.embed_tokens.lora_embedding_A": eighths(2, 6),
        "model.embed_tokens.lora_embedding_B": eighths(3, 2),
    },
    "lm_head": pair("lm_head", 6, 3),
}
CHANGE = {
    "embed_tokens": (eighths(3, 2) @ eighths(2, 6)).T / 2,
    "lm_head": update(HEADS["lm_head"]),
}


@pytest.mark.parametrize("stored", [True, False])
class TestTied:
    """Embedding and head are one tensor; the adapter was trained with each end by itself."""

    @staticmethod
    def base(folder: Path, stored: bool) -> Path:
        names = ["model.embed_tokens.weight", *(["lm_head.weight"] if stored else [])]
        config = {"model_type": "llama", "tie_word_embeddings": True, "vocab_size": 6}
        tensors = WEIGHTS | {name: TABLE.clone() for name in names}
        return write_base(folder / "base", tensors, config)

    @pytest.mark.parametrize("end", ["embed_tokens", "lm_head"])
    def test_update_of_one_end_unties(self, tmp_path: Path, stored: bool, end: str) -> None:
        base = self.base(tmp_path, stored)
        tensors, report = merged(base, write_adapter(tmp_path / "adapter", HEADS[end]))
        ends = {"embed_tokens": TABLE, "lm_head": TABLE}
        ends[end] = TABLE + CHANGE[end]
        assert equal(tensors["model.embed_tokens.weight"], ends["embed_tokens"])
        assert equal(tensors["lm_head.weight"], ends["lm_head"])
        assert config_of(tmp_path / "merged")["tie_word_embeddings"] is False
        assert report.plan.untied is not None

    def test_updates_of_both_ends_untie(self, tmp_path: Path, stored: bool) -> None:
        base = self.base(tmp_path, stored)
        adapter = write_adapter(tmp_path / "adapter", HEADS["embed_tokens"] | HEADS["lm_head"])
        tensors, _ = merged(base, adapter)
        assert equal(tensors["model.embed_tokens.weight"], TABLE + CHANGE["embed_tokens"])
        assert equal(tensors["lm_head.weight"], TABLE + CHANGE["lm_head"])

    def test_trained_tokens_change_both_ends_and_leave_them_tied(
        self, tmp_path: Path, stored: bool
    ) -> None:
        base = self.base(tmp_path, stored)
        rows = {"model.embed_tokens.token_adapter.trainable_tokens_delta": eighths(2, 3)}
        adapter = write_adapter(tmp_path / "adapter", rows | Q, trainable_token_indices=[4, 1])
        tensors, report = merged(base, adapter)
        expected = TABLE.clone()
        expected[[4, 1]] = eighths(2, 3)
        assert equal(tensors["model.embed_tokens.weight"], expected)
        assert ("lm_head.weight" in tensors) is stored
        assert not stored or equal(tensors["lm_head.weight"], expected)
        assert report.plan.untied is None
        assert config_of(tmp_path / "merged") == config_of(base)

    def test_head_keeps_its_own_update_when_tokens_are_trained_too(
        self, tmp_path: Path, stored: bool
    ) -> None:
        """Rows replace those of the table, and the head's update goes on top of them."""
        base = self.base(tmp_path, stored)
        rows = {"model.embed_tokens.token_adapter.trainable_tokens_delta": eighths(1, 3)}
        adapter = write_adapter(
            tmp_path / "adapter", rows | HEADS["lm_head"], trainable_token_indices=[4]
        )
        tensors, _ = merged(base, adapter)
        expected = TABLE.clone()
        expected[4] = eighths(1, 3)
        assert equal(tensors["model.embed_tokens.weight"], expected)
        assert equal(tensors["lm_head.weight"], expected + CHANGE["lm_head"])

    def test_trained_embedding_leaves_the_head_as_it_was(
        self, tmp_path: Path, stored: bool
    ) -> None:
        base = self.base(tmp_path, stored)
        whole = {"model.embed_tokens.weight": TABLE + 1}
        adapter = write_adapter(tmp_path / "adapter", whole, modules_to_save=["embed_tokens"])
        tensors, _ = merged(base, adapter)
        assert equal(tensors["model.embed_tokens.weight"], TABLE + 1)
        assert equal(tensors["lm_head.weight"], TABLE)
        assert config_of(tmp_path / "merged")["tie_word_embeddings"] is False

    def test_both_trained_alike_stay_tied(self, tmp_path: Path, stored: bool) -> None:
        base = self.base(tmp_path, stored)
        whole = {"model.embed_tokens.weight": TABLE + 1, "lm_head.weight": TABLE + 1}
        saved = ["embed_tokens", "lm_head"]
        tensors, report = merged(
            base, write_adapter(tmp_path / "adapter", whole, modules_to_save=saved)
        )
        assert equal(tensors["model.embed_tokens.weight"], TABLE + 1)
        assert ("lm_head.weight" in tensors) is stored
        assert report.plan.untied is None

    def test_grown_vocabulary_grows_both_ends(self, tmp_path: Path, stored: bool) -> None:
        """PEFT stores the grown table of the base as that inside its wrapper."""
        base = self.base(tmp_path, stored)
        grown = torch.cat([TABLE, eighths(2, 3)])
        factors = {
            "model.embed_tokens.base_layer.weight": grown,
            "model.embed_tokens.lora_embedding_A": eighths(2, 8),
            "model.embed_tokens.lora_embedding_B": eighths(3, 2),
        }
        tensors, report = merged(base, write_adapter(tmp_path / "adapter", factors))
        change = (eighths(3, 2) @ eighths(2, 8)).T / 2
        assert equal(tensors["model.embed_tokens.weight"], grown + change)
        assert equal(tensors["lm_head.weight"], grown)
        assert report.plan.vocabulary == (6, 8)
        assert config_of(tmp_path / "merged")["vocab_size"] == 8

    def test_trained_head_is_kept_beside_a_grown_embedding(
        self, tmp_path: Path, stored: bool
    ) -> None:
        """The head was saved whole after the vocabulary grew, so it does not follow the table."""
        base = self.base(tmp_path, stored)
        grown, head = torch.cat([TABLE, eighths(2, 3)]), eighths(8, 3) + 5
        whole = {"model.embed_tokens.base_layer.weight": grown, "lm_head.weight": head}
        factors = {
            "model.embed_tokens.lora_embedding_A": eighths(2, 8),
            "model.embed_tokens.lora_embedding_B": eighths(3, 2),
        }
        adapter = write_adapter(tmp_path / "adapter", whole | factors, modules_to_save=["lm_head"])
        tensors, _ = merged(base, adapter)
        change = (eighths(3, 2) @ eighths(2, 8)).T / 2
        assert equal(tensors["model.embed_tokens.weight"], grown + change)
        assert equal(tensors["lm_head.weight"], head)

    def test_table_inside_a_wrapper_that_is_the_bases_changes_nothing(
        self, tmp_path: Path, stored: bool
    ) -> None:
        base = self.base(tmp_path, stored)
        same = {"model.embed_tokens.base_layer.weight": TABLE}
        tensors, report = merged(base, write_adapter(tmp_path / "adapter", Q | same))
        assert equal(tensors["model.embed_tokens.weight"], TABLE)
        assert [tensor.name for tensor in report.plan.changed] == ["model.layers.0.q.weight"]


@pytest.mark.parametrize("weight", [-1.0, 0.0, 1.0])
def test_an_update_is_taken_out_of_the_models_tensor_and_not_of_the_adapters_copy(
    tmp_path: Path, weight: float
) -> None:
    held = eighths(6, 4) + 7
    base = write_base(tmp_path / "base", {"lm_head.weight": held})
    copy = {"lm_head.base_layer.weight": eighths(6, 4)}
    factors = pair("lm_head", 6, 4)
    adapter = write_adapter(tmp_path / "adapter", factors | copy)
    tensors, report = merged(base, adapter, weights=[weight])
    origin = held if weight <= 0 else copy["lm_head.base_layer.weight"]
    assert equal(tensors["lm_head.weight"], origin + weight * update(factors))
    replaced = [note for note in report.notes if "the copy takes its place" in note]
    assert bool(replaced) is (weight > 0)


def test_vocabulary_that_grows_at_one_end_only_is_refused(tmp_path: Path) -> None:
    """Untied, so that nothing says what the head's new rows would be."""
    tables = {"model.embed_tokens.weight": TABLE, "lm_head.weight": TABLE + 1}
    base = write_base(tmp_path / "base", WEIGHTS | tables, {"model_type": "llama"})
    grown = {"model.embed_tokens.weight": eighths(8, 3)}
    adapter = write_adapter(tmp_path / "adapter", Q | grown, modules_to_save=["embed_tokens"])
    with pytest.raises(UnsupportedError, match=r"lm_head\.weight: has 6 rows, but the vocabulary"):
        merged(base, adapter)


class TestDtype:
    @pytest.mark.parametrize(
        ("dtype", "torch_dtype"),
        [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)],
    )
    def test_all_float_weights_take_it_and_others_keep_theirs(
        self, base: Path, dtype: Any, torch_dtype: torch.dtype
    ) -> None:
        adapter = write_adapter(base.parent / "adapter", Q)
        tensors, _ = merged(base, adapter, options=MergeOptions(dtype=dtype))
        assert equal(tensors["model.steps"], WEIGHTS["model.steps"])
        assert equal(tensors["model.norm.weight"], WEIGHTS["model.norm.weight"].to(torch_dtype))
        expected = WEIGHTS["model.layers.0.q.weight"] + update(Q)
        assert equal(tensors["model.layers.0.q.weight"], expected.to(torch_dtype))
        config = config_of(base.parent / "merged")
        assert config["torch_dtype"] == dtype

    @pytest.mark.parametrize("shape", [(), (1,), (0,), (4, 0), (0, 4), (2, 0, 3), (1, 1, 1, 1)])
    def test_odd_shapes_are_converted_too(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        odd = {"odd": torch.full(shape, 1.25)}
        base = write_base(tmp_path / "base", WEIGHTS | odd)
        adapter = write_adapter(tmp_path / "adapter", Q)
        for dtype in ("bfloat16", None):
            options = MergeOptions(dtype=dtype)
            tensors, _ = merged(base, adapter, options=options, output=tmp_path / str(dtype))
            expected = odd["odd"].to(torch.bfloat16 if dtype else torch.float32)
            assert equal(tensors["odd"], expected)

    def test_result_beyond_the_dtype_is_refused_and_nothing_is_written(self, base: Path) -> None:
        adapter = write_adapter(base.parent / "adapter", Q, lora_alpha=1e6)
        with pytest.raises(NonFiniteError, match=r"model\.layers\.0\.q\.weight"):
            merged(base, adapter, options=MergeOptions(dtype="float16"))
        assert not (base.parent / "merged").exists()
        write = loratools.WriteOptions(allow_nonfinite=True)
        tensors, _ = merged(base, adapter, options=MergeOptions(dtype="float16"), write=write)
        assert tensors["model.layers.0.q.weight"].isinf().any()

    @pytest.mark.parametrize("broken", [math.nan, math.inf])
    def test_broken_factor_is_refused(self, base: Path, broken: float) -> None:
        factors = {name: tensor.clone() for name, tensor in Q.items()}
        factors["layers.0.q.lora_B.weight"][1, 1] = broken
        with pytest.raises(NonFiniteError):
            merged(base, write_adapter(base.parent / "adapter", factors))


def test_dry_run_plans_and_writes_nothing(base: Path) -> None:
    adapter = write_adapter(base.parent / "adapter", Q)
    before = sorted(base.parent.rglob("*"))
    report = loratools.merge(base, adapter, output=None)
    assert sorted(base.parent.rglob("*")) == before
    assert len(report.plan.accounting.applied) == 2
    assert report.fidelity == {}


def test_two_pickled_adapters_may_replace_one_tensor(base: Path) -> None:
    folders = []
    for name, factors in (("one", Q), ("two", K)):
        folder = write_adapter(base.parent / name, factors, modules_to_save=["score"])
        stored = {f"base_model.model.{key}": value for key, value in factors.items()}
        stored["base_model.model.score.weight"] = eighths(2, 3)
        (folder / "adapter_model.safetensors").unlink()
        torch.save(stored, folder / "adapter_model.bin")
        folders.append(folder)
    tensors, _ = merged(base, *folders, allow_pickle=True)
    assert equal(tensors["score.weight"], eighths(2, 3))


def test_square_weight_whose_axes_another_layout_exchanges_is_turned(tmp_path: Path) -> None:
    """transformers has `text_projection.weight` of OpenCLIP's `text_projection`, transposed."""
    tensors = {
        "token_embedding.weight": eighths(9, 4),
        "transformer.resblocks.0.attn.in_proj_weight": eighths(12, 4),
        "transformer.resblocks.0.ln_1.weight": eighths(4),
        "text_projection": eighths(4, 4),
    }
    base = write_base(tmp_path / "base", tensors)
    factors = pair("text_projection", 4, 4)
    adapter = write_adapter(tmp_path / "adapter", factors, fan_in_fan_out=False)
    result, _ = merged(base, adapter)
    assert equal(result["text_projection"], tensors["text_projection"] + update(factors).T)


class TestPartsOfOneWeight:
    WHOLE = "model.layers.0.self_attn.qkv_proj"

    @pytest.fixture
    def fused(self, tmp_path: Path) -> Path:
        output = {"model.layers.0.self_attn.o_proj.weight": eighths(4, 4)}
        tensors = {f"{self.WHOLE}.weight": eighths(12, 4), **output}
        return write_base(tmp_path / "fused", tensors, {"model_type": "phi3"})

    def adapter(self, folder: Path, *modules: str) -> Path:
        rows = {"qkv_proj": 12}
        factors = [pair(f"model.layers.0.self_attn.{m}", rows.get(m, 4), 4, 7) for m in modules]
        return write_adapter(folder, {k: v for some in factors for k, v in some.items()})

    def test_one_adapter_may_change_several(self, fused: Path, tmp_path: Path) -> None:
        result, report = merged(fused, self.adapter(tmp_path / "qv", "q_proj", "v_proj"))
        part = update(pair("any", 4, 4, 7))
        whole = torch.cat([part, torch.zeros(4, 4), part])
        assert equal(result[f"{self.WHOLE}.weight"], eighths(12, 4) + whole)
        assert report.accounting.startswith("4 of 4 adapter tensors applied to 1 weight;")

    def test_one_adapter_changes_none_twice(self, fused: Path, tmp_path: Path) -> None:
        twice = self.adapter(tmp_path / "twice", "q_proj", "qkv_proj")
        with pytest.raises(MatchError, match=r"q_proj.* and .*qkv_proj.* both mean "):
            loratools.merge(fused, [twice], output=tmp_path / "out")
