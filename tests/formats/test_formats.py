"""Which dialect a file is in, and what is said of those that cannot be read."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

import loratools
from loratools import formats, registry
from loratools.adapter import Adapter
from loratools.cli.reading import dialect_options
from loratools.errors import FormatError, OptionError, OutputError, UnsupportedError
from loratools.files.beside import of_model
from loratools.files.opening import open_base
from loratools.files.writing import write_adapter
from loratools.formats import Option, decode, dialects, encode
from loratools.formats._by_sight import KNOWN_BY_SIGHT, seen
from loratools.io.file import InputFile
from loratools.publishing.card.facts import facts_of
from loratools.publishing.card.readme import complete_card
from loratools.publishing.listed import _named_base
from loratools.publishing.written import with_base
from loratools.typed import as_typed
from tests.formats.bundles import bundle, config, lora
from tests.formats.conftest import Toy
from tests.narrowing import present

KOHYA = {"lora_unet_q.lora_down.weight": (2, 3), "lora_unet_q.lora_up.weight": (4, 2)}


def dialect_of(adapter: Adapter) -> str:
    return present(adapter.filed).dialect


# Whose files they are


def test_surest_dialect_reads_whatever_its_place_in_the_alphabet(toy: Toy) -> None:
    toy("aaa", claim="POSSIBLE")
    toy("zzz", claim="KEYS")
    names = [dialect.name for dialect in dialects()]
    assert (names[0], names[-1]) == ("aaa", "zzz")
    assert dialect_of(decode(bundle({"x": (2,)}, None))) == "zzz"
    assert dialect_of(decode(bundle(lora("q"), config()))) == "peft"
    assert dialect_of(decode(bundle(lora("q"), None))) == "zzz"


@pytest.mark.parametrize(
    "option", [o for o in formats.options() if not o.text], ids=lambda o: o.name
)
@pytest.mark.parametrize("shapes", [KOHYA, lora("q")], ids=["kohya", "peft"])
def test_an_option_that_changes_nothing_is_said_not_to_be_used(
    option: Option, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    value = option.values[-1] if len(option.values) > 1 else "0.5"
    files = bundle(shapes, config() if shapes == lora("q") else None)
    adapter = decode(files, {option.name: value})
    is_own = option in formats.dialect_named(dialect_of(adapter)).options
    says = f"{as_typed(option.name)} {value} is not used"
    assert any(note.message.startswith(says) for note in adapter.remarks) or (
        is_own and option != formats.ALPHA
    )
    assert not decode(files, {option.name: present(option.default)}).unused


@pytest.mark.parametrize(
    ("claim", "shapes", "fields", "names"),
    [
        ("KEYS", KOHYA, None, "kohya or toy"),
        ("CONFIG", lora("q"), config(), "peft or toy"),
        ("POSSIBLE", lora("q"), None, "peft or toy"),
    ],
)
def test_two_equally_sure_dialects_are_both_named(
    toy: Toy, claim: str, shapes: Any, fields: Any, names: str
) -> None:
    toy("toy", claim=claim, config="adapter_config.json")
    with pytest.raises(UnsupportedError, match=f"here: could be in the format {names}, and noth"):
        decode(bundle(shapes, fields))


@pytest.mark.parametrize(
    ("shapes", "fields"),
    [
        ({"lora_unet_q.lokr_w1": (2, 2)}, None),
        (KOHYA | {"lora_unet_k.lokr_w1": (2, 2)}, None),
        (lora("q"), {"peft_type": "IA3"}),
        (lora("q"), None),
        ({"classifier.weight": (2, 2)}, config()),
    ],
    ids=["kind", "kind-among-others", "type", "no-config", "config-alone"],
)
def test_no_dialect_is_sure_of_what_it_cannot_decode_for_certain(
    toy: Toy, shapes: Any, fields: Any
) -> None:
    toy("toy", claim="KEYS")
    assert dialect_of(decode(bundle(shapes, fields))) == "toy"


def test_keys_of_two_dialects_are_refused_and_not_read_in_part() -> None:
    with pytest.raises(UnsupportedError, match=r"here: .*lora_unet_q\.lora_down\.weight: a factor"):
        decode(bundle(KOHYA | lora("q"), config()))


@pytest.mark.parametrize(
    "fields", [config(), {"peft_type": "IA3"}, {"peft_type": None}, {"lora_parameters": {}}]
)
def test_keys_count_more_than_a_config_that_may_be_of_something_else(fields: Any) -> None:
    assert dialect_of(decode(bundle(KOHYA, fields))) == "kohya"


# Options


def test_option_reaches_its_dialect_alone_with_its_default(toy: Toy) -> None:
    toy("toy", claim="CONFIG", options=(Option("order", ("up", "down"), "Which comes first."),))
    found = [note.message for note in decode(bundle({"x": (2,)}, None)).notes]
    assert found == ["order=up"]
    chosen = {"order": "down", "out_proj": "once"}
    adapter = decode(bundle({"x": (2,)}, None), chosen)
    assert [n.message for n in adapter.notes if n not in adapter.unused] == ["order=down"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_proj": "once"}, "'in_proj' is an option of no format; there is .*out_proj"),
        ({"out_proj": "thrice"}, "out_proj of the format peft is one of auto, once, twice, not 't"),
        ({"out_proj": 2}, "out_proj of the format peft is one of auto, once, twice, not 2"),
        ({"out_proj": ["once"]}, r"out_proj .*, not \['once'\]"),
        ({"alpha": "much"}, "alpha of the format .* is one of auto, a number, not 'much'"),
        ({"alpha": "inf"}, "alpha of the format .* not 'inf'"),
        ({"alpha": 16}, "alpha of the format .* not 16"),
    ],
)
def test_what_is_no_option_is_an_error_in_every_format(options: Any, message: str) -> None:
    for files in (bundle(lora("q"), config()), bundle(KOHYA, None)):
        with pytest.raises(OptionError, match=message):
            decode(files, options)


def test_what_is_no_option_is_refused_before_anything_is_read() -> None:
    options = {"in_proj": "once"}
    with pytest.raises(OptionError):
        loratools.merge("no-base", "no-adapter", output=None, dialect_options=options)
    with pytest.raises(OptionError):
        loratools.inspect("no-adapter", dialect_options=options)


def test_commands_have_the_options_that_dialects_declare(toy: Toy) -> None:
    toy("toy", options=(Option("row_order", ("up", "down"), "Which comes first."),))

    @click.command()
    @dialect_options
    def command(dialect_options: Mapping[str, str]) -> None:
        click.echo(json.dumps(dialect_options))

    def chosen(*arguments: str) -> tuple[str, str]:
        values = json.loads(CliRunner().invoke(command, arguments).output)
        return values["out_proj"], values["row_order"]

    assert chosen() == ("auto", "up")
    assert chosen("--row-order", "down", "--out-proj", "twice") == ("twice", "down")
    run = CliRunner().invoke
    assert run(command, ["--row-order", "none"]).exit_code == 2
    text = " ".join(run(command, ["--help"]).output.split())
    assert "--row-order [up|down] Which comes first. [default: up]" in text


def test_option_that_several_dialects_declare_is_one_option(toy: Toy) -> None:
    shared = Option("alpha", ("auto",), "The alpha.", number="A")
    assert shared.takes("-1e3")
    toy("one", options=(shared,))
    toy("two", options=(shared,))
    assert formats.options().count(shared) == 1


def test_option_without_values_is_a_text_and_has_no_default(toy: Toy) -> None:
    toy("toy", claim="CONFIG", options=(Option("order", (), "Which comes first.", text="T"),))
    files = bundle({"x": (2,)}, None)
    assert not decode(files).notes
    assert [note.message for note in decode(files, {"order": "up, down"}).notes] == [
        "order=up, down"
    ]
    text: Any = ["up"]
    with pytest.raises(OptionError, match=r"order of the format toy is a text, not \['up'\]"):
        decode(files, {"order": text})


def test_option_that_decides_is_stronger_than_keys_but_not_where_it_fits_nothing(toy: Toy) -> None:
    toy("toy", options=(Option("order", (), "Which comes first.", text="T", decides=True),))
    named = bundle(lora("q") | {"x": (2,)}, config())
    assert dialect_of(decode(named, {"order": "up"})) == "toy"
    other = bundle(lora("q"), config())
    assert dialect_of(decode(other, {"order": "up"})) == "peft"
    # Nobody else claims these, so the dialect says what is wrong with them.
    assert dialect_of(decode(bundle({"y": (2,)}, None), {"order": "up"})) == "toy"


def test_commands_join_texts_that_are_given_several_times(toy: Toy) -> None:
    toy("toy", options=(Option("row_order", (), "Which comes first.", text="NAME"),))

    @click.command()
    @partial(dialect_options, without=["alpha"])
    def command(dialect_options: Mapping[str, str]) -> None:
        click.echo(json.dumps(dialect_options))

    run = CliRunner().invoke
    given = json.loads(run(command, ["--row-order", "up", "--row-order", "down"]).output)
    assert given.pop("row_order") == "up\ndown"
    assert "out_proj" in given
    assert "alpha" not in given
    assert json.loads(run(command).output) == given
    assert "--row-order NAME" in run(command, ["--help"]).output


# What a dialect states


def test_wrappers_are_left_out_by_what_a_dialect_states(toy: Toy) -> None:
    toy("toy", claim="CONFIG", prefix="model.net.", module_fields=("layers",))
    key = "module.model.module.net.q.x"
    files = bundle({key: (2,)}, {"layers": ["_orig_mod.q"], "name": "_orig_mod"})
    found = [note.message for note in decode(files).notes]
    assert found[0].endswith(f"({key} is model.net.q.x)")
    assert found[1:] == ["('layers', ['q'])", "('name', '_orig_mod')"]


def test_what_was_filed_is_for_its_own_dialect_alone(toy: Toy) -> None:
    toy("one", claim="CONFIG")
    toy("two")
    adapter = decode(replace(bundle({"x": (2,)}, None), metadata={"by": "one"}))
    assert encode(adapter).metadata == {"by": "one"}
    assert encode(adapter, "one").metadata == {"by": "one"}
    assert encode(adapter, "two").metadata == {}
    with pytest.raises(UnsupportedError, match="here: was read in no format; say which to write"):
        encode(replace(adapter, filed=None))
    with pytest.raises(UnsupportedError, match=r"'three' is not one of .*: it has .*kohya, .*one"):
        encode(adapter, "three")


# Files


OURS = {"weights": "ours.safetensors", "config": "ours.json"}


def ours(folder: Path, **config: str) -> Path:
    """The folder of an adapter in a dialect that only a test has."""
    folder.mkdir()
    save_file({"x": torch.ones(2)}, folder / "ours.safetensors", {"by": "us"})
    (folder / "ours.json").write_text(json.dumps({"of": "us", **config}))
    return folder


def test_adapter_is_found_and_written_under_the_names_of_its_dialect(
    toy: Toy, tmp_path: Path
) -> None:
    toy("toy", claim="CONFIG", **OURS)
    folder = ours(tmp_path / "adapter")
    save_file({"y": torch.ones(2)}, folder / "other.safetensors")
    adapter = loratools.open_adapter(folder)
    assert [note.message for note in adapter.notes] == ["('of', 'us')"]
    assert adapter.beside == ("other.safetensors",)
    write_adapter(adapter, tmp_path / "written", inputs=[folder])
    assert sorted(path.name for path in (tmp_path / "written").iterdir()) == sorted(OURS.values())
    assert (tmp_path / "written" / "ours.json").read_text() == '{\n  "of": "us"\n}\n'
    with pytest.raises(OutputError, match="the output is a folder"):
        write_adapter(adapter, tmp_path / "x.safetensors", inputs=[])


def test_index_has_the_names_that_a_dialect_states(toy: Toy, tmp_path: Path) -> None:
    toy("toy", claim="CONFIG", indexes=("map.safetensors.index.json",), **OURS)
    folder = ours(tmp_path / "adapter")
    (folder / "ours.safetensors").rename(folder / "ours-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": {"x": "ours-00001-of-00001.safetensors"}}
    (folder / "map.safetensors.index.json").write_text(json.dumps(index))
    assert loratools.open_adapter(folder).beside == ()


def test_folder_with_configs_of_two_dialects_is_refused_until_one_is_named(
    toy: Toy, tmp_path: Path
) -> None:
    toy("toy", claim="CONFIG", **OURS)
    folder = ours(tmp_path / "adapter")
    (folder / "adapter_config.json").write_text('{"of": "another"}')
    with pytest.raises(
        FormatError, match=r"several formats \(adapter_config.json, ours.json\); name"
    ):
        loratools.open_adapter(folder)
    adapter = loratools.open_adapter(folder, config=folder / "ours.json")
    assert [note.message for note in adapter.notes] == ["('of', 'us')"]


def test_adapter_of_any_dialect_is_no_base_and_does_not_go_along_with_one(
    toy: Toy, tmp_path: Path
) -> None:
    toy("toy", **OURS)
    folder = ours(tmp_path / "adapter")
    with pytest.raises(UnsupportedError, match="an adapter, where a base model is expected"):
        open_base(folder)
    save_file({"y": torch.ones(2)}, folder / "weights.safetensors")
    assert list(open_base(folder).tensors) == ["y"]
    names = ["config.json", "ours.json", "inside/ours.json", "inside/more.txt"]
    assert of_model(names) == (["config.json"], ["inside", "ours.json"])


def test_card_says_what_a_dialect_states(toy: Toy, tmp_path: Path) -> None:
    toy(
        "toy",
        claim="CONFIG",
        library="toys",
        tags=("wooden", "lora"),
        usage="\nplay({{ base }}, {{ repo }})\n",
        **OURS,
    )
    facts = facts_of("ann/toy", loratools.inspect(ours(tmp_path / "adapter")))
    assert (facts.library_name, facts.tags) == ("toys", ("lora", "wooden", "loratools"))
    assert facts.model_class is None
    card = complete_card(None, facts)
    assert "library_name: toys\n" in card
    assert card.endswith("\nplay(BASE, ann/toy)\n")


def test_base_is_in_the_fields_that_a_dialect_states(toy: Toy, tmp_path: Path) -> None:
    toy("toy", claim="CONFIG", base_field="of", revision_field="at", **OURS)
    folder = ours(tmp_path / "adapter", at="main")
    files = {"ours.json": InputFile(folder / "ours.json")}
    written = with_base(files, loratools.inspect(folder), "ann/base")
    assert {name: json.loads(data) for name, data in written.items()} == {
        "ours.json": {"of": "ann/base", "at": "main"}
    }
    assert _named_base("ours.json", {"of": "us", "at": "main"}) == ("us", "main")
    assert _named_base("adapter_config.json", {"of": "us"}) == (None, None)


@pytest.mark.parametrize(("field", "is_sent"), [(None, True), ("of", False)])
def test_base_is_written_only_into_a_config_that_is_sent_and_has_a_field_for_it(
    toy: Toy, tmp_path: Path, field: str | None, is_sent: bool
) -> None:
    toy("toy", claim="CONFIG", base_field=field, **OURS)
    folder = ours(tmp_path / "adapter")
    files = {"ours.json": InputFile(folder / "ours.json")} if is_sent else {}
    with pytest.raises(UnsupportedError, match="no adapter's config here that names a base"):
        with_base(files, loratools.inspect(folder), "ann/base")


# What is said of others


BY_SIGHT = [
    ("lycoris", "blocks.mid.lokr_w1", "a LyCORIS adapter"),
    ("lycoris", "blocks.mid.lokr_w2_a", "a LyCORIS adapter"),
    ("lycoris", "blocks.mid.hada_w1_b", "a LyCORIS adapter"),
]
UNREADABLE = {sight.dialect for sight in KNOWN_BY_SIGHT} - set(registry.names(formats))


@pytest.mark.parametrize(
    ("key", "appearance"), [(key, name) for dialect, key, name in BY_SIGHT if dialect in UNREADABLE]
)
def test_dialect_known_by_sight_is_named(key: str, appearance: str) -> None:
    message = re.escape(f"here: looks like {appearance}, which cannot be")
    with pytest.raises(UnsupportedError, match=message):
        decode(bundle({key: (2, 2)}, None))


@pytest.mark.parametrize(("dialect", "key", "name"), BY_SIGHT)
def test_dialect_with_a_folder_of_its_own_is_not_said_to_be_unreadable(
    dialect: str, key: str, name: str
) -> None:
    assert seen([key], readable=()) == name
    assert seen([key], readable=[dialect]) != name


def test_each_dialect_known_by_sight_has_an_example() -> None:
    assert {dialect for dialect, *_ in BY_SIGHT} == {sight.dialect for sight in KNOWN_BY_SIGHT}


def test_what_can_be_read_is_said_of_what_cannot(toy: Toy) -> None:
    toy("zzz")
    with pytest.raises(UnsupportedError, match=r"not an adapter of a known kind .*peft, .*zzz$"):
        decode(bundle({"x": (2, 2)}, None))


def test_what_is_no_adapter_is_shown_by_its_keys() -> None:
    with pytest.raises(UnsupportedError, match=r"not an adapter .*holds a.weight, b, c and 1 more"):
        decode(bundle({"a.weight": (2,), "b": (2,), "c": (2,), "d": (2,)}, None))


def test_file_without_tensors_says_so() -> None:
    with pytest.raises(UnsupportedError, match="here: holds no tensors"):
        decode(bundle({}, None))


@pytest.mark.parametrize(
    ("folder", "updates", "replaced"),
    [
        ("distilgpt2-cattn-niket", 6, []),
        ("bloom560m-mergedlinear-bin", 24, []),
        ("privacyfilter-moe-tokcls-r16", 32, ["score.bias", "score.weight"]),
        ("sam-vitb-lora-r2", 12, []),
        ("sd15-cloneofsimo-disney-r1", 192, []),
    ],
)
def test_published_adapter_is_read_whole(
    fixtures: Path, folder: str, updates: int, replaced: list[str]
) -> None:
    adapter = loratools.open_adapter(fixtures / "real" / folder, allow_pickle=True)
    assert len(adapter.updates) == updates
    assert list(adapter.replaced) == replaced
    assert not [note for note in adapter.notes if note.severity != "info"]
