"""The nearest of known names."""

import re
from collections.abc import Callable

import click
import pytest

import loratools
from loratools.errors import OptionError
from loratools.methods import MethodOptions
from loratools.nearest import did_you_mean, nearest
from tests.cli.results import refused
from tests.cli.test_exit_codes import options_of
from tests.e2e.commands import SMALL, run_here
from tests.verbs import VERBS


def test_the_nearest_name_is_found_whatever_its_case_and_dashes() -> None:
    known = ["merge", "resize", "svd-extract"]
    assert nearest("SVD_EXTRACT", known) == "svd-extract"
    assert nearest("mrege", known) == "merge"


def test_of_names_that_are_not_alike_none_is_named() -> None:
    assert nearest("zzz", ["merge"]) is None
    assert nearest("sample", ["rescale", "merge"]) is None
    assert did_you_mean("zzz", ["merge"]) == ""


@pytest.mark.parametrize(
    ("word", "value"),
    [("a1111", "kohya"), ("sd-scripts", "kohya"), ("ComfyUI", "comfyui"), ("half", "float16"),
     ("flux", None), ("sdxl", None), ("pony", None),
     ("float8", None), ("float8_e4m3fn", None), ("float 16", "float16"), ("lerp", "linear")],
)  # fmt: skip
def test_a_value_is_answered_by_what_has_this_name_elsewhere_and_not_by_another_number(
    word: str, value: str | None
) -> None:
    known = [
        "bfloat16", "comfyui", "diffusers", "float16", "kohya", "linear", "mlx", "peft", "slerp",
    ]  # fmt: skip
    assert did_you_mean(word, known) == (f"; did you mean {value!r}?" if value else "")


def _unchecked(options: MethodOptions, **values: object) -> MethodOptions:
    """The options with values that the tests' own checks of types would refuse."""
    for name, value in values.items():
        object.__setattr__(options, name, value)
    return options


MISSPELT: dict[str, Callable[[], object]] = {
    "bfloat16": lambda: loratools.MergeOptions(dtype="bf16"),  # type: ignore[arg-type]
    "float16": lambda: loratools.ExtractOptions(dtype="fp16"),
    "rslora": lambda: loratools.Rescaling(rule="rs-lora"),  # type: ignore[arg-type]
    "ties": lambda: loratools.Combination(method="tie"),
    "average": lambda: loratools.Combination(replaced="avrage"),  # type: ignore[arg-type]
    "total": lambda: _unchecked(MethodOptions(), majority_sign_method="totl").__post_init__(),
    "kohya": lambda: loratools.convert(SMALL, output=None, to="a1111"),
    "float32": lambda: loratools.convert(SMALL, output=None, to="peft", dtype="fp32"),
    "out_proj": lambda: loratools.open_adapter(SMALL, dialect_options={"out_porj": "once"}),
    "once": lambda: loratools.open_adapter(SMALL, dialect_options={"out_proj": "onc"}),
    "missing-alpha": lambda: loratools.rescale(SMALL, output=None, repair=["missing-alfa"]),
}


@pytest.mark.parametrize("meant", MISSPELT)
def test_a_misspelt_value_is_answered_by_the_nearest(meant: str) -> None:
    with pytest.raises(OptionError, match=rf"did you mean '{meant}'\?"):
        MISSPELT[meant]()


def test_a_misspelt_name_of_the_package_is_answered_by_the_nearest() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'mrege'; did you mean 'merge'\?"):
        _ = loratools.mrege  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"'svd_extract'\?"):
        _ = loratools.svdextract  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"no attribute '__mrege__'$"):
        _ = loratools.__mrege__  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("open", "open_adapter"), ("load", "open_adapter"), ("from_pretrained", "open_adapter"),
        ("extract", "svd_extract"), ("fuse", "merge"), ("scale", "rescale"), ("save", "convert"),
        ("from_state_dict", "adapter_from_tensors"), ("Error", "LoratoolsError"),
        ("push_to_hub", "push"), ("to_kohya", "convert"),
    ],
)  # fmt: skip
def test_another_programs_word_for_a_function_is_answered_by_ours(word: str, name: str) -> None:
    with pytest.raises(AttributeError, match=rf"did you mean '{name}'\?"):
        getattr(loratools, word)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("inspekt", "inspect"), ("svd_extract", "svd-extract"), ("extract", "svd-extract"),
        ("convertt", "convert"), ("info", "inspect"), ("download", "pull"), ("fuse", "merge"),
        (f"{SMALL}", f"inspect {SMALL}"), ("hf://ben/tales", "inspect hf://ben/tales"),
    ],
)  # fmt: skip
def test_a_misspelt_command_is_answered_by_the_nearest(
    typed: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(run_here(capsys, typed, "x"), 2, re.escape(f"did you mean loratools {meant}?"))


def test_a_command_that_is_like_none_is_answered_by_where_they_are_listed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert refused(run_here(capsys, "zzz"), 2, "loratools --help lists all commands")


CHOICES = [
    (verb, option.opts[0])
    for verb in VERBS
    for option in options_of(verb).values()
    if isinstance(option.type, click.Choice)
]


@pytest.mark.parametrize(("verb", "option"), CHOICES)
def test_every_choice_of_every_command_answers_by_the_nearest(
    verb: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (*_, meant) = options_of(verb)[option].type.choices  # type: ignore[attr-defined]
    result = run_here(capsys, verb, f"{option}={meant}x")
    assert refused(result, 2, re.escape(f"did you mean '{meant}'?"))
