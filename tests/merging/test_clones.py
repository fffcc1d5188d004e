"""What a merge does not change can be cloned: it lies where the base has it, whoever writes it."""

import errno
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import loratools
from loratools import MergeOptions, WriteOptions, merge
from loratools.errors import StorageError
from loratools.files.checkpoints import open_checkpoint
from loratools.io.clones import BLOCK_BYTES
from loratools.io.dtypes import nbytes
from loratools.io.file import InputFile
from loratools.io.source import Stored
from loratools.merging.arrange import PlannedFile, arrange, clonable_bytes
from loratools.merging.plan import MergePlan
from loratools.merging.planner import plan_merge
from tests.disks import Disk, FakeClones, cloning, mounted
from tests.e2e.commands import FIXTURES, PLAIN, SHARDED, SINGLE, SMALL, digests
from tests.hostile.checkpoints import lora, write_adapter

Q = ("BF16", (256, 256))
#: A model of which a LoRA on q and v changes an eighth.
MODEL = {
    f"layers.{layer}.{name}.weight": shape
    for layer in range(4)
    for name, shape in {
        "q": Q,
        "v": Q,
        "mlp": ("BF16", (1024, 896)),
        "norm": ("F32", (256,)),
    }.items()
}


def write_shard(
    path: Path,
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    metadata: Mapping[str, str] | None = None,
    spaces: int = 0,
) -> Path:
    """A shard of small numbers; its header is padded to a multiple of 8, and by `spaces` more."""
    fields: dict[str, Any] = {"__metadata__": dict(metadata or {"format": "pt"})}
    position = 0
    for name, (dtype, shape) in tensors.items():
        end = position + nbytes(dtype, shape)
        fields[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8 + spaces)
    # Bytes below 64 make neither a large number nor a NaN, whatever the dtype.
    data = random.Random(0).randbytes(position).translate(bytes(byte & 63 for byte in range(256)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def write_model(folder: Path, **how: Any) -> tuple[Path, Path]:
    """The model in one file, and an adapter for q and v."""
    write_shard(folder / "base/model.safetensors", MODEL, **how)
    adapted = {key for layer in range(4) for key in (f"layers.{layer}.q", f"layers.{layer}.v")}
    factors = {k: v for target in sorted(adapted) for k, v in lora(target, Q[1]).items()}
    adapter = write_adapter(folder / "adapter", factors, target_modules=["q", "v"])
    return folder / "base", adapter


def planned(base: Path, adapter: Path, limit: int | None = None) -> tuple[PlannedFile, ...]:
    plan = plan_merge(
        open_checkpoint(base), [loratools.open_adapter(adapter)], [1.0], MergeOptions()
    )
    return arrange(plan, limit)


def spaces(header: bytes) -> int:
    return len(header) - len(header.rstrip(b" "))


def shifts(file: PlannedFile) -> set[int]:
    """How far the tensors that are copied to a file are from their place in a block."""
    return {
        (file.layout.tensors[tensor.name].begin - tensor.origin.begin) % BLOCK_BYTES
        for tensor in file.tensors
        if tensor.is_copied and isinstance(tensor.origin, Stored)
    }


# Headers


@pytest.mark.parametrize("extra", [0, 8, 400, 4088, 4096, 30_000])
def test_copied_bytes_keep_their_place_in_a_block(tmp_path: Path, extra: int) -> None:
    """With a header as long as the base's, unless that one has more than a block of spaces."""
    base, adapter = write_model(tmp_path)
    shard = base / "model.safetensors"
    write_shard(shard, MODEL, spaces=extra)
    (file,) = planned(base, adapter)
    assert shifts(file) == {0}
    assert spaces(file.layout.header) < BLOCK_BYTES
    data = InputFile(shard).read_header().columns.begins[0]
    if extra < 4000:
        assert len(file.layout.header) == data


def test_data_begin_at_a_multiple_of_8_even_where_the_base_does_not(tmp_path: Path) -> None:
    """Readers that map a file want that; such a base is copied."""
    base, adapter = write_model(tmp_path)
    write_shard(base / "model.safetensors", MODEL, spaces=3)
    (file,) = planned(base, adapter)
    assert len(file.layout.header) % 8 == 0
    assert spaces(file.layout.header) < 8
    assert clonable_bytes([file]) == {}


def test_new_tensors_do_not_move_those_that_are_copied_within_a_block(tmp_path: Path) -> None:
    """A head that is stored from now on makes the header longer than the base's."""
    for adapter in ("lm-head", "embedding-lora-resized"):
        for file in planned(SHARDED, FIXTURES / "adapters" / adapter):
            assert shifts(file) <= {0}


def test_shards_of_other_sizes_keep_most_bytes_in_their_place(tmp_path: Path) -> None:
    base, adapter = write_model(tmp_path)
    files = planned(base, adapter, 2_500_000)
    assert len(files) > 2
    assert all(shifts(file) == {0} for file in files)


def test_an_output_without_copies_has_no_more_spaces_than_before(tmp_path: Path) -> None:
    base, adapter = write_model(tmp_path)
    options = MergeOptions(dtype="float32")
    plan = plan_merge(open_checkpoint(base), [loratools.open_adapter(adapter)], [1.0], options)
    plan = MergePlan(
        **plan.__dict__
        | {"tensors": {name: tensor for name, tensor in plan.tensors.items() if "norm" not in name}}
    )
    (file,) = arrange(plan, 10**9)
    assert spaces(file.layout.header) < 8


# Bytes


CASES: dict[str, tuple[Path, Path, dict[str, Any]]] = {
    "a folder": (SHARDED, PLAIN, {}),
    "a file": (SINGLE / "model.safetensors", SMALL, {}),
    "a new head": (SHARDED, FIXTURES / "adapters/lm-head", {}),
    "other shards": (SINGLE, SMALL, {"write": WriteOptions(max_shard_bytes=300_000)}),
    "another dtype": (SHARDED, PLAIN, {"options": MergeOptions(dtype="float32")}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("direct", ["0", "1"])
def test_a_clone_does_not_show(
    tmp_path: Path,
    case: tuple[Path, Path, dict[str, Any]],
    direct: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base, adapter, how = case
    suffix = ".safetensors" if base.is_file() else ""
    made = [tmp_path / f"{name}{suffix}" for name in "abc"]
    merge(base, adapter, output=made[0], **how)
    monkeypatch.setenv("LORATOOLS_DIRECT", direct)
    with cloning():
        merge(base, adapter, output=made[1], **how)
    with cloning(errno.EOPNOTSUPP):
        merge(base, adapter, output=made[2], **how)
    assert digests(made[0]) == digests(made[1]) == digests(made[2])


@pytest.mark.parametrize("direct", ["0", "1"])
def test_all_but_what_changes_is_cloned(
    tmp_path: Path, direct: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A range of the base that no update touches is one call; what is left has its edges only."""
    monkeypatch.setenv("LORATOOLS_DIRECT", direct)
    base, adapter = write_model(tmp_path)
    with cloning() as fake:
        merge(base, adapter, output=tmp_path / "merged")
    changed = 8 * nbytes(*Q)
    size = (base / "model.safetensors").stat().st_size
    # The first call asks whether there are clones.
    assert len(fake.ranges) == 1 + 4
    assert size - changed - fake.nbytes < 4 * 2 * BLOCK_BYTES
    assert fake.nbytes >= sum(clonable_bytes(planned(base, adapter)).values()) > 0.85 * size


def test_a_model_of_an_overlay_has_the_header_of_the_merge(tmp_path: Path) -> None:
    """Though nearly all of its bytes are copied, and from other positions than in the merge."""
    shapes = {"q.weight": Q, "norm": ("F32", (7,))}
    write_shard(tmp_path / "base/model.safetensors", shapes, spaces=400)
    adapter = write_adapter(tmp_path / "adapter", lora("q", Q[1]))
    merge(tmp_path / "base", adapter, output=tmp_path / "full")
    overlay = WriteOptions(only_changed=True)
    merge(tmp_path / "base", adapter, output=tmp_path / "changed", write=overlay)
    merge(f"{tmp_path / 'base'}+{tmp_path / 'changed'}", [], output=tmp_path / "made")
    assert digests(tmp_path / "made") == digests(tmp_path / "full")


@pytest.mark.parametrize("turn", range(4))
def test_a_clone_may_fail_at_any_time(tmp_path: Path, turn: int) -> None:
    base, adapter = write_model(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        fake = FakeClones(patch)

        def fails(*arguments: Any) -> int:
            if len(fake.ranges) == turn:
                fake.number = errno.ENOSPC
            return fake(*arguments)

        import fcntl

        patch.setattr(fcntl, "ioctl", fails)
        with pytest.raises(StorageError, match="no space left"):
            merge(base, adapter, output=tmp_path / "merged", write=WriteOptions(jobs=1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]


# File systems that make clones


@pytest.fixture(scope="module", params=["xfs", "btrfs"])
def disk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Disk]:
    with mounted(request.param, tmp_path_factory.mktemp("disk")) as disk:
        yield disk


@dataclass(frozen=True)
class Model:
    """A model on a file system of its own, an adapter, and what the merge of both is elsewhere."""

    disk: Disk
    base: Path
    adapter: Path
    expected: dict[str, str]


@pytest.fixture(scope="module")
def model(disk: Disk) -> Model:
    base, adapter = write_model(disk.path)
    with cloning(errno.EOPNOTSUPP):
        merge(base, adapter, output=disk.path / "expected")
    expected = digests(disk.path / "expected")
    (disk.path / "expected/model.safetensors").unlink()
    return Model(disk, base, adapter, expected)


def test_a_merge_writes_what_it_changes(model: Model) -> None:
    """A merge of q and v writes a sixth of the model, and a journal; without clones, all of it."""
    changed = 8 * nbytes(*Q)
    size = (model.base / "model.safetensors").stat().st_size
    written = []
    for number in (None, errno.EOPNOTSUPP):
        output = model.disk.path / f"merged {number}"
        before = model.disk.written()
        with pytest.MonkeyPatch.context() as patch:
            if number is not None:
                FakeClones(patch, number)
                patch.delattr("os.copy_file_range")  # it would clone too
            merge(model.base, model.adapter, output=output)
        written.append(model.disk.written() - before)
        assert digests(output) == model.expected
    assert changed < written[0] < changed + 1_500_000
    assert written[1] > size


def test_a_merge_that_fits_as_a_clone_is_not_refused(model: Model) -> None:
    changed = 8 * nbytes(*Q)
    model.disk.fill(changed + 3 * 2**20)
    try:
        merge(model.base, model.adapter, output=model.disk.path / "fits")
        assert digests(model.disk.path / "fits") == model.expected
    finally:
        model.disk.empty()


def test_a_disk_that_runs_full_while_clones_are_written_to_leaves_nothing(model: Model) -> None:
    before = sorted(model.disk.path.iterdir())

    def fill(done: int, total: int) -> None:
        if not (model.disk.path / "filler").exists():
            model.disk.fill(0)

    output = model.disk.path / "full"
    try:
        with pytest.raises(StorageError, match="no space left"):
            merge(model.base, model.adapter, output=output, write=WriteOptions(progress=fill))
    finally:
        model.disk.empty()
    assert sorted(model.disk.path.iterdir()) == before
    merge(model.base, model.adapter, output=output)
    assert digests(output) == model.expected
