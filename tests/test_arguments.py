"""Arguments of public functions: wrong ones are refused, and those that mean the same pass."""

import inspect
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
import torch

import loratools
from loratools.arguments import checked, checked_fields
from loratools.errors import (
    ArgumentError,
    FormatError,
    LoratoolsError,
    OptionError,
    TargetError,
)
from loratools.formats import written
from tests.cli.test_exit_codes import options_of
from tests.e2e.commands import PLAIN, SINGLE
from tests.verbs import VERBS

if TYPE_CHECKING:
    from loratools import Adapter
else:

    class Adapter:
        """A class with the name of one that is annotated, and that only type checkers import."""

        where = "folder"


@checked_fields
@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a function."""

    rank: int | None = None
    names: tuple[str, ...] = ()
    method: Literal["ties", "linear"] = "ties"


@checked
def made(
    base: str | Path,
    adapters: "str | Path | Adapter | Sequence[str | Path | Adapter | tuple[str, float]]" = (),
    *,
    weights: Sequence[float] | None = None,
    is_new: bool = False,
    options: Options | None = None,
    device: "torch.device | None" = None,
    progress: Callable[[int, int], None] | None = None,
    settings: Mapping[str, str] | None = None,
) -> tuple[object, ...]:
    """Return what was given."""
    return base, adapters, weights, is_new, options, device, progress, settings


def an_adapter() -> "Adapter":
    kind: type[Adapter] = Adapter
    return kind.__new__(kind)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"base": None}, "made: base: a path is expected, not None"),
        ({"base": 1}, "made: base: a path is expected, not 1"),
        (
            {"base": "b", "adapters": 2},
            r"adapters: a path, an Adapter or a list, each item a path, an Adapter or a pair "
            r"\(a text, a number\) is expected, not 2",
        ),
        ({"base": print}, "base: a path is expected, not a builtin_function_or_method"),
        ({"base": "b", "adapters": ["a", None]}, "adapters: .* is expected, not None"),
        ({"base": "b", "adapters": {"a": 1}}, "adapters: .* is expected, not a dict"),
        ({"base": "b", "weights": ["0.5"]}, "weights: a number is expected, not '0.5'"),
        ({"base": "b", "weights": "half"}, "a list of numbers is expected, not 'half'"),
        ({"base": "b", "weights": [True]}, "weights: a number is expected, not True"),
        ({"base": "b", "is_new": "no"}, "is_new: True or False is expected, not 'no'"),
        ({"base": "b", "is_new": 1}, "is_new: True or False is expected, not 1"),
        ({"base": "b", "options": {}}, "options: an Options is expected, not a dict"),
        ({"base": "b", "device": "cuda"}, "device: a torch.device is expected, not 'cuda'"),
        (
            {"base": "b", "progress": True},
            "progress: a function of 2 arguments is expected, not True",
        ),
        ({"base": "b", "settings": {"alpha": 16}}, "settings: alpha: a text is expected, not 16"),
        ({}, "made: missing a required argument: 'base'"),
        ({"base": "b", "wieghts": [1]}, "'wieghts'; did you mean weights\\?"),
        ({"zzz": 1}, r"argument 'zzz'; help\(loratools.made\) lists all"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_refused_in_one_line_that_names_it(
    given: dict[str, object], says: str
) -> None:
    with pytest.raises(ArgumentError, match=says) as caught:
        made(**given)  # type: ignore[arg-type]
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, OptionError)
    assert str(caught.value).startswith("made: ")


@pytest.mark.parametrize(
    ("rank", "shown"), [("eight", "'eight'"), (8.0, "8.0"), (True, "True"), ([8], "a list")]
)
def test_a_wrong_field_of_options_is_refused_where_they_are_made(rank: object, shown: str) -> None:
    with pytest.raises(ArgumentError, match=f"^Options: rank: an integer is expected, not {shown}"):
        Options(rank=rank)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"^Options: rank: "):
        replace(Options(), rank=rank)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"^Options: got an unexpected .* 'rnak'; did you mean"):
        Options(rnak=8)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("progress", "shown"),
    [
        (lambda: None, r"<lambda>\(\)"),
        (lambda done: None, r"<lambda>\(done\)"),
        ([].append, r"append\(object, /\)"),
        (Options, "the class Options"),
    ],
)
def test_a_function_that_cannot_be_called_as_it_will_be_is_refused_at_once(
    progress: object, shown: str
) -> None:
    with pytest.raises(ArgumentError, match=f"a function of 2 arguments is expected, not {shown}$"):
        made("b", progress=progress)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=f"2 arguments, True or False is expected, not {shown}"):
        loratools.resize(PLAIN, progress=progress)  # type: ignore[call-overload]


@pytest.mark.parametrize("progress", [print, lambda done, total: None, lambda *_: None, max])
def test_a_function_that_can_be_called_as_it_will_be_passes(progress: Callable[..., None]) -> None:
    assert made("b", progress=progress)[6] is progress


def test_what_is_wrong_with_a_pair_is_said_of_its_part() -> None:
    for pair, says in (
        (("x", "0.5"), r"adapters: in \('x', '0.5'\): a number is expected, not '0.5'$"),
        ((PLAIN, True), "a number is expected, not True$"),
        ((3, 0.5), r"adapters: in \(3, 0.5\): a path or an Adapter is expected, not 3$"),
        ((PLAIN, 0.5, 1), "is expected, not a tuple of 3 items$"),
    ):
        with pytest.raises(ArgumentError, match=says):
            loratools.combine([pair])  # type: ignore[list-item]


def test_a_set_is_no_list_where_order_counts() -> None:
    numbers: dict[str, object] = {"weights": {0.7, 0.3}}
    for call in (
        lambda: made("b", **numbers),  # type: ignore[arg-type]
        lambda: loratools.combine({PLAIN, "other"}),  # type: ignore[call-overload]
    ):
        with pytest.raises(ArgumentError, match=r"expected, not a set, which has no order$"):
            call()
    assert Options(names={"q_proj"}).names == ("q_proj",)  # type: ignore[arg-type]
    assert len(loratools.inspect({PLAIN})) == 1


def test_a_mapping_for_a_list_of_pairs_is_answered_by_its_items() -> None:
    strengths: Any = {"*": 0.5}
    for call in (
        lambda: made("b", strengths),
        lambda: loratools.rescale(PLAIN, where=strengths),
    ):
        with pytest.raises(ArgumentError, match=r"not a dict; give its items\(\)$") as caught:
            call()
        assert caught.value.hint == "give its items()"
    assert made("b", strengths.items())[1] == (("*", 0.5),)


def test_a_number_that_no_float_can_hold_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"strength: a number of at most 1\.8e308 is expected"):
        loratools.rescale(PLAIN, strength=10**400)


def test_an_integer_that_python_does_not_print_is_refused_in_one_line() -> None:
    huge: Any = 10**5000
    calls: dict[str, Callable[[], object]] = {
        "rank: an integer of at most 4000 digits is": lambda: loratools.resize(PLAIN, rank=huge),
        "size: an integer or a text is ": lambda: loratools.resize(PLAIN, size=huge),
        "strength: a number of at most 1.8": lambda: loratools.rescale(PLAIN, strength=huge),
        r"in \('\*', a larger one\): a number": lambda: loratools.rescale(
            PLAIN, where=[("*", huge)]
        ),
        "path: a path is expected, not a larger one$": lambda: loratools.open_adapter(huge),
    }
    for says, call in calls.items():
        with pytest.raises(ArgumentError, match=says):
            call()


@pytest.mark.parametrize("name", ["nonsense", "meta"])
def test_a_device_that_cannot_compute_is_refused_where_it_is_chosen(name: str) -> None:
    with pytest.raises(OptionError, match=f"^device '{name}' cannot be used: "):
        loratools.ExtractOptions(device=name)
    with pytest.raises(OptionError, match=r"^device 'meta' cannot be used: "):
        loratools.Combination(device=torch.device("meta"))
    assert loratools.ExtractOptions(device="cpu").device == "cpu"


@pytest.mark.parametrize("jobs", [0, -1])
def test_a_number_of_threads_is_at_least_one(jobs: int) -> None:
    for call in (
        lambda: loratools.resize(PLAIN, rank=2, jobs=jobs),
        lambda: loratools.WriteOptions(jobs=jobs),
        lambda: loratools.ExtractRun(jobs=jobs),
    ):
        with pytest.raises(OptionError, match=f"jobs: 1 or more is expected, not {jobs}; leave it"):
            call()


def test_another_librarys_word_for_an_argument_is_answered_by_ours() -> None:
    for call, says in (
        (lambda: loratools.resize(PLAIN, r=4), "'r'; did you mean rank"),  # type: ignore[call-overload]
        (lambda: loratools.rescale(PLAIN, scale=0.5), "did you mean strength"),  # type: ignore[call-overload]
        (lambda: loratools.merge(PLAIN, scaling=[0.5]), "did you mean weights"),  # type: ignore[call-arg]
        (lambda: loratools.resize(PLAIN, force=True), "did you mean overwrite"),  # type: ignore[call-overload]
        (lambda: loratools.resize(PLAIN, dry_run=True), "; without output=, nothing is wr"),  # type: ignore[call-overload]
        (lambda: loratools.resize(PLAIN, variance=0.9), "did you mean energy"),  # type: ignore[call-overload]
        (lambda: loratools.inspect(PLAIN, check=True), "; is_sound of what"),  # type: ignore[call-overload]
        (lambda: loratools.swap(PLAIN, output="x"), "; the files of the model itself"),  # type: ignore[call-arg]
        (lambda: loratools.swap(PLAIN, remove="x"), "; an empty list of adapters"),  # type: ignore[call-arg]
        (lambda: loratools.adapter_from_tensors({}, rank=4), "; the shapes of"),  # type: ignore[call-arg]
    ):
        with pytest.raises(ArgumentError, match=says):
            call()


def test_an_argument_that_is_one_of_the_options_is_answered_by_where_it_is_given() -> None:
    for call, says in (
        (lambda: loratools.push(PLAIN, "o/n", license="mit"), r"options=loratools.PushOptions\("),  # type: ignore[call-arg]
        (lambda: loratools.merge(PLAIN, only_changed=True), r"write=loratools.WriteOptions\("),  # type: ignore[call-arg]
        (lambda: loratools.merge(PLAIN, provenance=1), r"; help\(loratools.merge\) lists all"),  # type: ignore[call-arg]
    ):
        with pytest.raises(ArgumentError, match=says):
            call()


def test_a_function_with_few_arguments_names_them_where_another_is_given() -> None:
    query: Any = loratools.open_adapter(PLAIN)["layers.0.self_attn.q_proj"]
    with pytest.raises(ArgumentError, match=r"argument 'rows'; it takes begin=, end=, weight=$"):
        query.update(rows=[0, 1])


def test_a_wrong_argument_without_a_name_is_answered_by_their_order() -> None:
    adapter: Any = loratools.open_adapter(PLAIN)
    for call, says in (
        (
            lambda: loratools.merge(adapter, SINGLE),
            "an Adapter; the order is merge(base, adapters)",
        ),
        (lambda: loratools.svd_extract(PLAIN, adapter), "the order is svd_extract(tuned, base)"),
        (lambda: loratools.push("me/tales", adapter), "the order is push(folder, repo, options)"),
    ):
        with pytest.raises(ArgumentError, match=f"{re.escape(says)}$"):
            call()
    with pytest.raises(ArgumentError, match=r"^combine: base: a path is expected, not an Adapter$"):
        loratools.combine(PLAIN, base=adapter)


def test_the_content_of_a_file_is_no_path_and_is_not_repeated() -> None:
    content = (PLAIN / "adapter_model.safetensors").read_bytes()
    for given in (content, "x" * 5000):
        with pytest.raises(ArgumentError, match=r"path: a path is expected, not a text of \d+ cha"):
            loratools.open_adapter(given)  # type: ignore[arg-type]


def test_a_name_that_no_file_can_have_is_refused() -> None:
    for name in ("a\0b", "\ud800"):
        with pytest.raises(FormatError, match="no path has such a name"):
            loratools.open_adapter(name)


def test_a_scalar_without_a_value_is_no_number() -> None:
    nothing: Any = torch.tensor(4, device="meta")
    with pytest.raises(
        ArgumentError, match="rank: an integer is expected, not a tensor without a v"
    ):
        loratools.resize(PLAIN, rank=nothing)


def test_too_many_arguments_without_a_name_are_answered_by_which_have_one() -> None:
    with pytest.raises(ArgumentError, match=r"give base and adapters, several as a list, and oth"):
        made("b", "a", [0.5])  # type: ignore[call-arg]
    with pytest.raises(ArgumentError, match=r"give each by name: rank=, names=, method=$"):
        Options(8)  # type: ignore[call-arg]
    with pytest.raises(ArgumentError, match=r"^combine: .*give adapters, several as a list"):
        loratools.combine("a", "b")  # type: ignore[call-overload]


def test_a_list_of_what_else_is_expected_is_a_list_of_them() -> None:
    with pytest.raises(ArgumentError, match=r"a number\) or a list of them is expected, not None"):
        loratools.combine(None)  # type: ignore[call-overload]


def test_one_item_where_a_list_belongs_is_a_list_of_it() -> None:
    assert Options(names="q_proj").names == ("q_proj",)  # type: ignore[arg-type]
    assert made("b", weights=0.5)[2] == (0.5,)  # type: ignore[arg-type]


def test_values_that_mean_the_same_are_converted() -> None:
    for rank in (np.int64(8), np.uint8(8), 8):
        assert type(Options(rank=rank).rank) is int  # type: ignore[arg-type]
    found = made(b"b", weights=np.array([0.5, 1], np.float32), is_new=np.bool_(True))  # type: ignore[arg-type]
    assert found[0] == "b"
    assert made(PurePath("b"))[0] == "b"  # type: ignore[arg-type]
    assert found[2] == (0.5, 1.0)
    assert {type(weight) for weight in found[2]} == {float}
    assert found[3] is True
    assert made("b", weights=(n for n in (1, 2)))[2] == (1, 2)  # type: ignore[arg-type]
    tensor = torch.tensor([0.5, 1])
    assert made("b", weights=tensor)[2] == made("b", weights=list(tensor))[2] == (0.5, 1.0)  # type: ignore[arg-type]
    assert type(Options(rank=torch.tensor(8)).rank) is int  # type: ignore[arg-type]
    for dtype in (torch.float16, np.dtype("float16")):
        assert loratools.MergeOptions(dtype=dtype).dtype == "float16"  # type: ignore[arg-type]


def test_what_is_annotated_passes_as_it_is() -> None:
    adapter, device, options = an_adapter(), torch.device("cpu"), Options(rank=1)
    found = made(
        Path("b"),
        ["a", Path("c"), adapter, ("d", 0.5)],
        options=options,
        device=device,
        progress=print,
        settings={"alpha": "16"},
    )
    assert found[1] == ("a", Path("c"), adapter, ("d", 0.5))
    assert found[0] == Path("b")
    assert found[4:] == (options, device, print, {"alpha": "16"})
    assert made("b", "a")[1] == "a"


SHARED = {  # the words with which the command line and Python tell the unit of an argument
    "energy": "above 0 and at most 1: 0.95 keeps 95%",
    "error": "from 0 to below 1",
    "weights": "1 is the strength as trained, 0.5 half of it, and -1 its opposite",
    "alpha": "which changes its strength: alpha / rank",
    "to": "the web UIs of A1111 and Forge read kohya",
    "spectrum": "its norm, its largest singular value, and its effective rank",
}


@pytest.mark.parametrize("name", SHARED)
def test_python_and_the_command_line_tell_the_unit_of_an_argument_in_the_same_words(
    name: str,
) -> None:
    told = []
    for verb in VERBS:
        function = getattr(loratools, verb.replace("-", "_"), None)
        option = next((one for one in options_of(verb).values() if one.name == name), None)
        if option is None or name not in inspect.signature(function or made).parameters:
            continue
        told += [option.help or "", " ".join((inspect.getdoc(function) or "").split())]
    assert told
    assert [text for text in told if SHARED[name] not in text] == []


def test_the_help_of_convert_names_every_format_that_it_writes() -> None:
    (line,) = re.findall(r"^    to: (.*?);", inspect.getdoc(loratools.convert) or "", re.MULTILINE)
    assert re.findall(r'`"(\w+)"`', line) == sorted(one.name for one in written())


def test_an_error_has_the_file_that_its_message_begins_with() -> None:
    @checked
    def fail(base: str | Path, adapters: Sequence[object]) -> None:
        raise FormatError(f"{begin}: is odd")

    adapter = an_adapter()
    for begin, file in (
        ("a: b", "a: b"),
        ("base/x.json", "base/x.json"),
        ("list", "list"),
        ("folder", "folder"),
        ("base", "base"),
        ("basement", None),
        ("hf://ann/x@abc/y.json", "hf://ann/x@abc/y.json"),
    ):
        with pytest.raises(FormatError) as caught:
            fail(Path("base"), ["a: b", ("list", 1.0), adapter])
        assert caught.value.file == file, begin


def test_the_signature_and_the_help_are_those_of_the_function() -> None:
    assert list(inspect.signature(made).parameters)[:2] == ["base", "adapters"]
    assert list(inspect.signature(Options).parameters) == ["rank", "names", "method"]
    assert (made.__name__, made.__doc__) == ("made", "Return what was given.")
    options = Options(rank=1)
    assert pickle.loads(pickle.dumps(options)) == options


@pytest.mark.parametrize("name", loratools.__all__)
def test_every_public_verb_and_its_options_check_their_arguments(name: str) -> None:
    public = getattr(loratools, name)
    is_options = isinstance(public, type) and name.endswith(
        ("Options", "Rule", "Rescaling", "Combination", "ExtractRun")
    )
    if is_options:
        assert hasattr(public.__init__, "__wrapped__")
    elif inspect.isfunction(public):
        assert hasattr(public, "__wrapped__")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: loratools.resize("x", rank="eight"), "^resize: rank: an integer is expected"),  # type: ignore[call-overload]
        (lambda: loratools.merge(1, 2), "^merge: base: a path is expected, not 1"),  # type: ignore[arg-type]
        (lambda: loratools.merge("b", "a", weights=["0.5"]), "^merge: weights: a number is "),  # type: ignore[list-item]
        (
            lambda: loratools.RankRule(rank=True),
            "^RankRule: rank: an integer is expected",
        ),
        (lambda: loratools.open_adapter(None), "^open_adapter: path: a path is expected"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_type_is_answered_before_anything_is_read(
    call: Callable[[], object], says: str
) -> None:
    with pytest.raises(ArgumentError, match=says):
        call()


def test_an_empty_text_is_no_path_to_any_verb() -> None:
    for call in (
        lambda: loratools.open_adapter(""),
        lambda: loratools.open_adapter(PLAIN, config=""),
        lambda: loratools.inspect(["", PLAIN]),
        lambda: loratools.merge("", PLAIN),
        lambda: loratools.combine([("", 1.0)]),
        lambda: loratools.resize(PLAIN, rank=2, output=""),
        lambda: loratools.open_adapter(PLAIN).save(""),
        lambda: loratools.pull(""),
        lambda: loratools.push(PLAIN, ""),
    ):
        with pytest.raises(LoratoolsError, match=r"an empty (text is no path|name)"):
            call()


def test_a_method_of_an_adapter_answers_a_wrong_type_in_one_line_too() -> None:
    opened = loratools.open_adapter(PLAIN)
    target = opened["layers.0.self_attn.q_proj"]
    calls: dict[str, Callable[[], object]] = {
        "Target.update: begin: an integer is expected, not 1.5": lambda: target.update(1.5),  # type: ignore[arg-type]
        "Target.norm: weight: a tensor or an array": lambda: target.norm(weight="x"),  # type: ignore[arg-type]
        "Target.singular_values: weight: a t": lambda: target.singular_values(weight=[1]),  # type: ignore[arg-type]
        "Adapter.save: path: a path is expected, not None": lambda: opened.save(None),  # type: ignore[arg-type]
        "Adapter.save: overwrite: True or": lambda: opened.save("x", overwrite=1),  # type: ignore[arg-type]
        "from_tensors: config: a mapping is expected, not a list": (
            lambda: loratools.adapter_from_tensors({}, config=[1])  # type: ignore[arg-type]
        ),
        "alpha: a number is": lambda: loratools.adapter_from_tensors({}, alpha="8"),  # type: ignore[arg-type]
    }
    for says, call in calls.items():
        with pytest.raises(ArgumentError, match=says):
            call()
    with pytest.raises(TargetError, match=r"7 is no name of a target, .* use a name"):
        opened[7]  # type: ignore[index]


def test_a_text_where_a_list_belongs_is_one_item() -> None:
    with pytest.raises(FormatError, match=r"^gone: no such file"):
        loratools.combine("gone")
    assert loratools.ExtractOptions(only="a.*").only == ("a.*",)  # type: ignore[arg-type]
