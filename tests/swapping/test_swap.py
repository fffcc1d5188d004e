"""Adapters are put into a model's own files as `merge` computes them, and taken out exactly."""

import os
import shutil
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import loratools
from loratools import (
    FormatError,
    MergeOptions,
    NonFiniteError,
    OptionError,
    OutputError,
    StorageError,
    UnsupportedError,
    WriteOptions,
)
from loratools.files.checkpoints import open_checkpoint
from loratools.files.swapped import swap_folder
from loratools.io.publish import claim_folder
from tests.e2e.commands import FIXTURES, PLAIN, SHARDED, SINGLE, SMALL, digests, unchanged
from tests.merged import write_adapter
from tests.swapping.models import (
    DTYPES,
    contents,
    journals,
    merged_contents,
    names_in,
    write_model,
    write_update,
)
from tests.verbs import own

GPT2 = FIXTURES / "tiny-gpt2"
ADAPTERS = sorted(path.name for path in (FIXTURES / "adapters").iterdir())
#: Adapters that make another model of every base that they fit: a head or an embedding more.
OTHER_MODELS = {"dora", "embedding-lora-resized", "embedding-vocab", "lm-head"}


def base_of(adapter: str) -> Path:
    return GPT2 if adapter.startswith("gpt2") else SHARDED


@pytest.mark.parametrize("base", [SINGLE, SHARDED, GPT2], ids=lambda base: base.name)
def test_each_adapter_in_after_another_is_its_merge_and_out_is_the_base(
    base: Path, tmp_path: Path
) -> None:
    """By the SHA-256 of every file, for all adapters of the fixtures that a swap can put in."""
    model = own(base, tmp_path / "model")
    is_gpt2 = base is GPT2
    fitting = [n for n in ADAPTERS if n.startswith("gpt2") == is_gpt2 and n not in OTHER_MODELS]
    assert len(fitting) >= 5
    for name in fitting:
        adapter = FIXTURES / "adapters" / name
        with unchanged(adapter):
            report = loratools.swap(model, adapter)
        assert contents(model) == merged_contents(base, [adapter], tmp_path / name), name
        assert names_in(report) == [name]
        assert names_in(loratools.swap(model)) == [name]
    loratools.swap(model, ())
    assert digests(model) == digests(base)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_out_again_is_the_base_whatever_the_dtype_and_the_order(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    base = write_model(tmp_path / "base", dtype)
    model = own(base, tmp_path / "model")
    adapters = [write_update(tmp_path / names, names, len(names)) for names in ("a", "bc", "abcd")]
    one, two, all_ = adapters
    ways: list[Sequence[Path]] = [(), [one], (), [two], [one, two], [one], [all_], [two], ()]
    for before, after in pairwise(ways):
        report = loratools.swap(model, after)
        assert names_in(report) == [adapter.name for adapter in after]
        assert [Path(a.path).name for a in report.before] == [adapter.name for adapter in before]
        made = merged_contents(base, after, tmp_path / "o") if after else digests(base)
        assert contents(model) == made, (before, after)
        shutil.rmtree(tmp_path / "o", ignore_errors=True)
        assert bool(journals(model)) == bool(after)
    assert digests(model) == digests(base)


def test_rounding_weights_and_selection_are_those_of_a_merge(tmp_path: Path) -> None:
    options = MergeOptions(only=("*self_attn*",), skip=("*.layers.0.*",))
    model = own(SHARDED, tmp_path / "model")
    ways = {
        "weights": {"weights": [0.5, -2.0]},
        "selection": {"options": options},
        "stochastic": {"write": WriteOptions(seed=7)},
    }
    for name, way in ways.items():
        loratools.swap(model, [PLAIN, SMALL], **way)  # type: ignore[arg-type]
        output = tmp_path / name
        loratools.merge(SHARDED, [PLAIN, SMALL], output=output, **way)  # type: ignore[arg-type]
        weights = {n: d for n, d in digests(output).items() if n.endswith(".safetensors")}
        assert {n: d for n, d in contents(model).items() if n in weights} == weights, name


def test_fidelity_is_that_of_the_merge_from_the_originals(tmp_path: Path) -> None:
    model = own(SHARDED, tmp_path / "model")
    loratools.swap(model, PLAIN)
    found = loratools.swap(model, SMALL).merge
    expected = loratools.merge(SHARDED, SMALL, output=tmp_path / "merged")
    assert found is not None
    assert found.total == expected.total
    assert found.accounting == expected.accounting


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json"])
def test_a_model_has_one_state_however_it_is_named(tmp_path: Path, name: str) -> None:
    base = SHARDED if name.endswith(".json") else SINGLE
    model = own(base, tmp_path / "model")
    loratools.swap(model / name, SMALL)
    assert names_in(loratools.swap(model)) == ["combine-r4"]
    loratools.swap(model, ())
    assert digests(model) == digests(base)


def test_a_model_of_links_has_the_state_of_the_files_that_they_lead_to(tmp_path: Path) -> None:
    model = own(SHARDED, tmp_path / "model")
    linked, links = tmp_path / "linked", tmp_path / "links"
    linked.symlink_to(model)
    links.mkdir()
    for file in model.iterdir():
        (links / file.name).symlink_to(file)
    loratools.swap(linked, SMALL)
    assert names_in(loratools.swap(model)) == ["combine-r4"]
    for name in (model, linked, links):
        assert swap_folder(open_checkpoint(name)) == journals(model)[0]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_what_a_model_was_is_for_those_who_may_read_the_model(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "model.safetensors"
    shutil.copyfile(SINGLE / "model.safetensors", file)
    file.chmod(mode)
    loratools.swap(file, SMALL)
    (journal,) = journals(file)
    assert journal.stat().st_mode & 0o444 == mode & 0o444
    assert (journal.stat().st_mode & 0o111) << 2 == mode & 0o444


def test_models_side_by_side_have_states_of_their_own(tmp_path: Path) -> None:
    one, other = (tmp_path / f"{name}.safetensors" for name in ("one", "other"))
    for file in (one, other):
        shutil.copyfile(SINGLE / "model.safetensors", file)
    loratools.swap(one, PLAIN)
    loratools.swap(other, SMALL)
    assert names_in(loratools.swap(one)) == ["plain"]
    loratools.swap(one, ())
    assert one.read_bytes() == (SINGLE / "model.safetensors").read_bytes()
    assert names_in(loratools.swap(other)) == ["combine-r4"]


def test_a_copy_with_an_adapter_in_can_be_swapped_like_the_first(tmp_path: Path) -> None:
    loratools.swap(own(SINGLE, tmp_path / "model"), PLAIN)
    copy = shutil.copytree(tmp_path / "model", tmp_path / "copy")
    loratools.swap(copy, ())
    assert digests(copy) == digests(SINGLE)


@pytest.mark.parametrize("adapter", sorted(OTHER_MODELS))
def test_what_would_make_another_model_is_refused(tmp_path: Path, adapter: str) -> None:
    model = own(SHARDED, tmp_path / "model")
    with (
        unchanged(*model.iterdir()),
        pytest.raises(UnsupportedError, match=r"merge\(…, output=…\) writes"),
    ):
        loratools.swap(model, FIXTURES / "adapters" / adapter)
    assert not journals(model)


def test_another_dtype_or_tokenizer_is_refused(tmp_path: Path) -> None:
    model = own(SINGLE, tmp_path / "model")
    with_tokenizer = shutil.copytree(SMALL, tmp_path / "adapter")
    (with_tokenizer / "tokenizer_config.json").write_text('{"eos_token": "."}')
    options = MergeOptions(dtype="bfloat16")
    with unchanged(*model.iterdir()):
        with pytest.raises(UnsupportedError, match=r"weight.* of another dtype"):
            loratools.swap(model, SMALL, options=options)
        with pytest.raises(UnsupportedError, match=r"tokenizer_config.json would be new or change"):
            loratools.swap(model, with_tokenizer)
    shutil.copy(model / "tokenizer_config.json", with_tokenizer)
    assert names_in(loratools.swap(model, with_tokenizer)) == ["adapter"]


def test_options_of_an_output_are_refused(tmp_path: Path) -> None:
    for write in (
        WriteOptions(overwrite=True),
        WriteOptions(max_shard_bytes=100),
        WriteOptions(only_changed=True),
    ):
        with pytest.raises(OptionError, match="keeps the model's files"):
            loratools.swap(tmp_path, SMALL, write=write)


def test_files_that_are_not_the_users_own_copy_are_refused(tmp_path: Path) -> None:
    real = own(SINGLE, tmp_path / "real") / "model.safetensors"
    model = own(SINGLE, tmp_path / "model")
    file = model / "model.safetensors"
    ways: dict[str, Callable[[], object]] = {
        "a link": lambda: file.symlink_to(real),
        "has 2 names": lambda: os.link(real, file),
        "read-only": lambda: shutil.copyfile(real, file).chmod(0o444),
    }
    for why, make in ways.items():
        file.unlink()
        make()
        with unchanged(model), pytest.raises(OutputError, match=f"{why}.*copy the model first"):
            loratools.swap(model, SMALL)
    cached = own(SINGLE, tmp_path / "hub/models--ann--stories/snapshots" / ("0" * 40))
    with unchanged(cached), pytest.raises(OutputError, match="in a cache of the Hub"):
        loratools.swap(cached, SMALL)
    with pytest.raises(UnsupportedError, match="pull the model"):
        loratools.swap("hf://ann/stories", SMALL)
    with pytest.raises(UnsupportedError, match="a base with an overlay"):
        loratools.swap(f"{cached}+{cached}", SMALL)


def test_a_dry_run_changes_nothing_and_says_what_would_change(tmp_path: Path) -> None:
    model = own(SINGLE, tmp_path / "model")
    for adapters in (PLAIN, SMALL, (), None):
        with unchanged(model):
            planned = loratools.swap(model, adapters, dry_run=True)
        done = loratools.swap(model, adapters)
        assert planned.rewritten == done.rewritten
        assert planned.adapters == done.adapters
        assert planned.originals_bytes == done.originals_bytes


def test_a_merge_that_fails_or_is_not_approved_leaves_the_model(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    model = own(base, tmp_path / "model")
    one, other = write_update(tmp_path / "one", "ab"), write_update(tmp_path / "other", "bc", 5)
    factors = {"d.lora_A.weight": torch.ones(2, 4), "d.lora_B.weight": torch.full((6, 2), 3e38)}
    huge = write_adapter(tmp_path / "huge", factors, target_modules=["d"], lora_alpha=8)

    def disagree(report: object) -> None:
        raise ZeroDivisionError

    for adapters in ((), [one]):
        loratools.swap(model, adapters)
        before = digests(model)
        with pytest.raises(NonFiniteError):
            loratools.swap(model, huge)
        for wanted in (other, () if adapters else other):
            with pytest.raises(ZeroDivisionError):
                loratools.swap(model, wanted, approve=disagree)
        assert digests(model) == before


def test_too_little_space_is_noticed_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = own(SINGLE, tmp_path / "model")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    before = digests(model)
    with pytest.raises(StorageError, match="1000 are free"):
        loratools.swap(model, SMALL)
    assert digests(model) == before


def test_only_one_swap_at_a_time(tmp_path: Path) -> None:
    model = own(SINGLE, tmp_path / "model")
    loratools.swap(model, SMALL)
    before = digests(model)
    held = claim_folder(journals(model)[0], keep=True)
    for adapters in (PLAIN, (), None):
        with pytest.raises(StorageError, match="another run is swapping"):
            loratools.swap(model, adapters)
    held.close()
    assert digests(model) == before


def test_a_model_that_has_changed_since_is_refused(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    model = own(base, tmp_path / "model")
    one, other = write_update(tmp_path / "one", "a"), write_update(tmp_path / "other", "b")
    loratools.swap(model, one)
    file = model / "m-00001-of-00002.safetensors"
    data = bytearray(file.read_bytes())
    data[-49] ^= 1  # in the last number of `a`, which has 48 bytes, as `b` has after it
    file.write_bytes(data)
    before = digests(model)
    for adapters in ((), other):
        with pytest.raises(FormatError, match=r"has changed since the last swap: a\.weight"):
            loratools.swap(model, adapters)
    assert digests(model) == before


def test_another_model_in_its_place_is_refused(tmp_path: Path) -> None:
    model = own(SINGLE, tmp_path / "model")
    loratools.swap(model, SMALL)
    loratools.merge(SINGLE, PLAIN, output=tmp_path / "wide", options=MergeOptions(dtype="float16"))
    shutil.copyfile(tmp_path / "wide/model.safetensors", model / "model.safetensors")
    before = digests(model)
    for adapters in (None, (), PLAIN):
        with pytest.raises(FormatError, match="of another model"):
            loratools.swap(model, adapters)
    assert digests(model) == before


def test_while_an_adapter_is_in_a_model_is_one_like_any_other(tmp_path: Path) -> None:
    """It can be merged into, compared and published; what swaps keep does not come along."""
    model = own(SHARDED, tmp_path / "model")
    loratools.swap(model, PLAIN)
    loratools.merge(SHARDED, PLAIN, output=tmp_path / "merged")
    for base in (model, tmp_path / "merged"):
        report = loratools.merge(base, SMALL, output=tmp_path / f"{base.name} and more")
        assert not list((tmp_path / f"{base.name} and more").glob(".*"))
    assert digests(tmp_path / "model and more") == digests(tmp_path / "merged and more")
    assert report.plan.base.path == tmp_path / "merged"
