"""A model may have more files than a process may have open; that is no bad input."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import loratools
from loratools import registry
from loratools.io import descriptors
from loratools.io.descriptors import Descriptor, most_open
from loratools.io.file import InputFile
from tests.cli.results import refused
from tests.e2e.commands import PLAIN, run_here
from tests.merged import at_most, pair, write_adapter

pytest.importorskip("resource")
SHARDS = 600


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    names = {f"layers.{n}.q.weight": f"model-{n:05}.safetensors" for n in range(SHARDS)}
    for number, (name, file) in enumerate(names.items()):
        save_file({name: torch.full((4, 3), number / 8)}, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_a_base_of_600_shards_works_with_256_open_files(base: Path, tmp_path: Path) -> None:
    """It is read, written, checked for changes and pushed as any other."""
    factors = pair("layers.7.q", 4, 3) | pair("layers.599.q", 4, 3)
    adapter = write_adapter(tmp_path / "adapter", factors)
    output = tmp_path / "merged"
    with at_most(256):
        loratools.merge(base, adapter, output=output)
        report = loratools.inspect(adapter, base=base)
        loratools.svd_extract(
            output, base, output=tmp_path / "extracted", rule=loratools.RankRule(rank=2)
        )
    assert report.is_sound
    assert len(list(output.glob("*.safetensors"))) == SHARDS
    for number in (0, 300):
        name = f"model-{number:05}.safetensors"
        assert (output / name).read_bytes() == (base / name).read_bytes()
    (changed,) = load_file(output / "model-00599.safetensors").values()
    assert not torch.equal(changed, torch.full((4, 3), 599 / 8))


@pytest.mark.parametrize("spare", range(6))
def test_no_open_files_left_is_4_and_says_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, spare: int
) -> None:
    """And not that an adapter is of an unknown kind, or that there is no adapter."""
    for verb in (["inspect", PLAIN], ["rescale", PLAIN, "--strength", 2, "-o", tmp_path / "out"]):
        lowest = os.dup(0)
        os.close(lowest)
        with at_most(lowest + spare):
            result = run_here(capsys, *verb)
        if spare == 0 or result.code:
            assert refused(result, 4, "too many open files")
            assert list(tmp_path.iterdir()) == []


def test_a_folder_of_plug_ins_that_cannot_be_listed_is_not_one_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from loratools import formats

    def fail(*arguments: object) -> None:
        raise OSError(24, "Too many open files")

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, fail)
    with pytest.raises(OSError, match="Too many open files"):
        registry.names(formats)


def open_in(folder: Path) -> list[str]:
    """The files of a folder that this process has open; others come and go with its threads."""
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [path for path in map(os.path.realpath, links) if path.startswith(str(folder))]


def test_files_beyond_the_limit_are_open_only_while_they_are_used(tmp_path: Path) -> None:
    files = []
    for number in range(20):
        path = tmp_path / str(number)
        path.write_bytes(bytes([number]))
        files.append(path)
    with at_most(1024), pytest.MonkeyPatch.context() as patch:
        patch.setattr("loratools.io.descriptors._MOST", 0)
        opened = [InputFile(path) for path in files]
        assert not open_in(tmp_path)
        with opened[3].used() as fd:
            assert os.pread(fd, 1, 0) == b"\3"
        assert [file.read(0, 1) for file in opened] == [bytes([n]) for n in range(20)]
        assert not open_in(tmp_path)
        files[5].unlink()
        files[5].write_bytes(b"\5")
        with pytest.raises(loratools.LoratoolsError, match="changed while it was read"):
            opened[5].read(0, 1)


def test_the_files_that_were_used_last_stay_open(tmp_path: Path) -> None:
    """Whatever else a process holds, so that a file that is renamed over is read to its end."""
    paths = [tmp_path / str(number) for number in range(6)]
    for path in paths:
        path.write_bytes(b"!")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("loratools.io.descriptors._MOST", 0)
        files = dict(enumerate(map(InputFile, paths)))
        assert not open_in(tmp_path)
        patch.setattr("loratools.io.descriptors._MOST", 2)
        for number in (0, 3, 5, 3, 1):
            assert files[number].read(0, 1) == b"!"
        assert sorted(open_in(tmp_path)) == [str(paths[1]), str(paths[3])]
        del files[1]
        assert files[4].read(0, 1) == b"!"
        assert sorted(open_in(tmp_path)) == [str(paths[3]), str(paths[4])]


def test_a_descriptor_in_use_is_not_closed_by_others(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"!")
    descriptor = Descriptor(lambda: os.open(path, os.O_RDONLY))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("loratools.io.descriptors._MOST", 0)
        assert most_open() == 0
        with descriptor.used() as outer:
            with descriptor.used() as inner:
                assert inner == outer
            assert os.pread(outer, 1, 0) == b"!"
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(outer)


def test_a_use_that_fails_to_open_is_no_use() -> None:
    """Else the next two uses would count as one, and the end of one would close the other's."""

    def refuse() -> int:
        raise FileNotFoundError

    file = Descriptor(refuse)
    with pytest.raises(FileNotFoundError), file.used():
        pass
    file._open_file = lambda: os.open(os.devnull, os.O_RDONLY)
    with file.used() as fd:
        with file.used():
            pass
        assert id(file) not in descriptors._open.idle
        assert os.fstat(fd)
