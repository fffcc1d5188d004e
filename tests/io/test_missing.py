"""A path that leads to nothing is answered by what was probably meant."""

from collections.abc import Callable
from pathlib import Path

import pytest

import loratools
from loratools.errors import FormatError, HubError, OutputError
from loratools.hub.names import HubName
from loratools.io.file import InputFile
from loratools.io.missing import hub_name_of, refuse_missing
from tests.e2e.commands import SINGLE, SMALL

PAGES = {
    "https://huggingface.co/ben/tales": "hf://ben/tales",
    "http://www.huggingface.co/ben/tales/": "hf://ben/tales",
    "huggingface.co/ben/tales": "hf://ben/tales",
    "https://hf.co/ben/tales": "hf://ben/tales",
    "https://huggingface.co/ben/tales/tree/main": "hf://ben/tales",
    "https://huggingface.co/ben/tales/tree/v2": "hf://ben/tales@v2",
    "https://huggingface.co/ben/tales/tree/refs/pr/3": "hf://ben/tales@refs/pr/3",
    "https://huggingface.co/ben/tales/tree/main/inner": "hf://ben/tales/inner",
    "https://huggingface.co/ben/tales/blob/main/x.safetensors": "hf://ben/tales/x.safetensors",
    "https://huggingface.co/ben/tales/resolve/v2/a/x.bin?download=true": "hf://ben/tales@v2/a/x.bin",
    "https://huggingface.co/ben/tales/raw/main/a%20b.json": "hf://ben/tales/a b.json",
    "https://huggingface.co/ben/tales/discussions/1": "hf://ben/tales",
}  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "adapters").mkdir()
    for name in ("style.safetensors", "v1.5.json", "v1.5.preview.png", "v1.5.safetensors"):
        (tmp_path / "adapters" / name).touch()
    (tmp_path / "with space").touch()
    return tmp_path


@pytest.mark.parametrize(("page", "name"), PAGES.items())
def test_an_address_of_the_hub_names_its_repository_revision_and_file(page: str, name: str) -> None:
    assert hub_name_of(page) == name
    assert str(HubName.parse(name.replace(" ", "%20"))).startswith("hf://ben/tales")
    with pytest.raises(FormatError) as caught:
        refuse_missing(page)
    assert f"did you mean {name}?" in str(caught.value)
    with pytest.raises(HubError) as refused:
        HubName.parse(f"hf://{page}")
    assert f"did you mean {name}?" in str(refused.value)


@pytest.mark.parametrize(
    "page",
    [
        "https://huggingface.co/datasets/a/b",
        "huggingface.co/datasets/a/b",
        "huggingface.co/ben",
        "https://civitai.com/models/1",
        "civitai.com/models/1",
        "ftp://example.org/x.safetensors",
    ],
)
def test_another_address_is_said_to_be_one(page: str) -> None:
    assert hub_name_of(page) is None
    with pytest.raises(FormatError, match="an address, and not a file; download it"):
        loratools.inspect(page)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ben/tales", "did you mean hf://ben/tales on the Hub?"),
        ("ben/tales@v2", "did you mean hf://ben/tales@v2 on the Hub?"),
        ("hf:ben/tales", "did you mean hf://ben/tales on the Hub?"),
        ("adapters/stile.safetensors", "did you mean adapters/style.safetensors?"),
        ("adapters/style", "did you mean adapters/style.safetensors?"),
        ("adapters/v1.5", "did you mean adapters/v1.5.safetensors?"),
        ("<lora:style:0.7>", "as in a prompt, and not a path; did you mean style.safetensors?"),
        ("adapters/STYLE.safetensor", "did you mean adapters/style.safetensors?"),
        ("adaptors/style.safetensors", "did you mean adapters/style.safetensors?"),
        ("adapters/tales", "in adapters there is style.safetensors, v1.5.json"),
        ("adapters/tales.safetensors/x", "no such file or folder"),
        ("ben/tales.safetensors", "in this folder there is adapters, with space"),
        ("./ben/tales", "in this folder there is"),
        ("with space ", "did you mean with space?"),
        ("adapters\\style.safetensors", "did you mean adapters/style.safetensors?"),
        ("~/adapters", "did you mean {here}/adapters?"),
        ("~/tales", "check the name: in {here} there is adapters"),
        ("file:///{here}/adapters", "did you mean /"),
    ],
)
def test_the_message_says_what_was_probably_meant(
    name: str, says: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(here))
    with pytest.raises(FormatError) as caught:
        refuse_missing(name.replace("{here}", str(here)))
    assert says.replace("{here}", str(here)) in str(caught.value)


def test_a_link_to_nothing_is_no_name_to_try_again(here: Path) -> None:
    (here / "link.safetensors").symlink_to("gone.safetensors")
    with pytest.raises(FormatError, match=r"link\.safetensors: a link to gone\.safetensors, which"):
        refuse_missing("link.safetensors")


@pytest.mark.parametrize("place", ["adapter", "base", "overlay", "config", "swap", "push"])
def test_every_place_in_which_a_path_is_given_says_it(place: str, here: Path) -> None:
    calls: dict[str, Callable[[str], object]] = {
        "adapter": loratools.inspect,
        "base": lambda name: loratools.merge(name, SMALL, output=None),
        "overlay": lambda name: loratools.merge(f"{SINGLE}+{name}", SMALL, output=None),
        "config": lambda name: loratools.inspect(SMALL, config=name),
        "swap": lambda name: loratools.swap(name, SMALL),
        "push": lambda name: loratools.push(name, "me/tales", dry_run=True),
    }
    with pytest.raises(FormatError, match=r"adaptors: no such .*; did you mean adapters\?"):
        calls[place]("adaptors")


def test_an_output_in_a_folder_that_only_a_shell_knows_is_answered_by_its_path(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(here))
    adapter = loratools.open_adapter(SMALL)
    for name, folder in (("~/out", here), ("~/new/out", here / "new")):
        with pytest.raises(OutputError, match=rf"; write {folder}/?, as only shells read ~$"):
            adapter.save(name)
    with pytest.raises(OutputError, match=r"no such folder; make it first$"):
        adapter.save("new/out")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("HF://ben/tales", "did you mean hf://ben/tales?"),
        ("hf:///ben/tales", "did you mean hf://ben/tales?"),
        ("-", "standard input is not read: name a file"),
        ("\N{EN DASH}check", "did you mean check?"),
        ("\N{EM DASH}dry-run", "did you mean dry_run?"),
        ("$HOME/style", "write what $HOME stands for"),
        ("${HOME}/style", "write what ${HOME} stands for"),
        ("%USERPROFILE%/style", "write what %USERPROFILE% stands for"),
        ("adapters,with space", "did you mean"),
        ("adapters, adapters", "name each by itself: adapters adapters"),
        ("0.3", "several weights are one list, as in 0.7,0.3"),
        ("adapters:0.3", "did you mean adapters? It takes no weight here"),
        ("C:\\models\\style", "as this system has it, such as /mnt/c/models/style in WSL"),
        ("*.bin", "no name fits this pattern: check its folder and its ending"),
        ("adap*", "give the paths that glob.glob finds"),
        ("{a,b}.bin", "give the paths that glob.glob finds"),
    ],
)
def test_what_is_no_name_of_a_file_is_called_what_it_is(here: Path, name: str, says: str) -> None:
    with pytest.raises(FormatError) as caught:
        refuse_missing(name)
    assert says in str(caught.value)


def test_a_link_to_nothing_says_where_it_leads(here: Path) -> None:
    """It was answered by its own name: «did you mean dangling?»."""
    (here / "dangling").symlink_to("../blobs/x")
    for read in (refuse_missing, InputFile):
        with pytest.raises(
            FormatError, match=r"dangling: a link to \.\./blobs/x, .*; download it again"
        ):
            read(Path("dangling"))


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("$OUT/x", r"^\$OUT: no such folder; write what \$OUT stands for"),
        ("s3://bucket/x", "^s3://bucket: an address, and not a folder; name a path"),
        ("with space/x", "^with space: not a folder; name another output"),
        ("-", "^-: an output is not standard output; name a file or a folder"),
    ],
)
def test_an_output_is_a_path_in_a_folder_that_is_there(here: Path, output: str, says: str) -> None:
    with pytest.raises(OutputError, match=says):
        loratools.rescale(SMALL, strength=2, output=output)
