"""The documentation says what the program does: pages exist, examples run, tables are whole."""

import builtins
import contextlib
import doctest
import importlib
import importlib.util
import io
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, NoneType
from typing import Any

import click
import pytest

import loratools
import loratools.errors
from loratools import (
    Combination,
    LoratoolsError,
    MergeOptions,
    RankRule,
    Rescaling,
    WriteOptions,
    deltas,
    formats,
    methods,
    registry,
)
from loratools.cli import cli, failures
from loratools.cli.command import common_options
from loratools.cli.signals import STOPPING
from loratools.extracting.plan import ExtractOptions
from loratools.extracting.svd_extract import svd_extract
from loratools.formats._modules import kinds as module_kinds
from loratools.formats._peft import kinds as peft_kinds
from loratools.formats._peft import refusals as peft_refusals
from loratools.formats._peft.kinds import Codec
from loratools.formats._peft.kinds._lora import LORA
from tests.merged import pair, write_adapter
from tests.packed import COLUMNS, FORMATS, PLAIN, ROWS, write_packed

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PEFT = DOCS / "formats" / "peft.md"
GUIDES = tuple(f"docs/how-to/{path.name}" for path in sorted((DOCS / "how-to").glob("*.md")))
#: Pages whose examples need a Hub: tests/hub/test_docs.py runs them.
ON_THE_HUB = frozenset({"README.md", "docs/how-to/hub.md", "docs/how-to/release.md"})
#: Pages whose `console` and `python` blocks are run, in a folder of their own with the fixtures.
EXECUTED = tuple(page for page in ("docs/tutorial.md", *GUIDES) if page not in ON_THE_HUB)
#: The guides of those commands that have none of their own.
GUIDES_OF = {"pull": "hub", "push": "hub"}
COMMANDS = tuple(cli.list_commands(click.Context(cli)))


def read(page: str | Path) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


# Examples


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; its line is that of its first line of text."""

    language: str
    text: str
    line: int


def blocks(page: str) -> Iterator[Block]:
    text = read(page)
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(match[1], match[2], text.count("\n", 0, match.start(2)) + 1)


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """Each command of a `console` block, and the output shown below it."""
    lines = iter(block.text.splitlines())
    command: str | None = None
    output: list[str] = []
    for line in lines:
        if not line.startswith("$ "):
            output.append(line)
            continue
        if command is not None:
            yield command, "\n".join(output)
        assert command is not None or not output, f"{output[0]!r} comes before any command"
        command, output = line[2:], []
        while command.endswith("\\"):
            command = f"{command}\n{next(lines)}"
    if command is not None:
        yield command, "\n".join(output)


def comparable(text: str) -> str:
    """Without spaces at the ends of lines, or empty lines at the end."""
    return "\n".join(line.rstrip() for line in text.splitlines()).rstrip("\n") + "\n"


def assert_output(shown: str, got: str, where: str) -> None:
    """`...` in what is shown stands for anything, and `…` for the rest of a word."""
    pattern = re.escape(comparable(shown)).replace(r"\.\.\.", ".*").replace("…", r"\S*")
    if re.fullmatch(pattern, comparable(got), re.DOTALL) is None:
        pytest.fail(f"{where} prints\n{comparable(got)}and the page shows\n{comparable(shown)}")


def run_console(block: Block, page: str) -> None:
    # At the width of a classic terminal.
    environment = {**os.environ, "COLUMNS": "80", "LC_ALL": "C.UTF-8"}
    for command, shown in commands(block):
        done = subprocess.run(
            ["bash", "-c", command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=120,
        )
        assert_output(shown, done.stdout.decode(), f"{page}:{block.line}: {command}")


def run_python(block: Block, page: str, names: dict[str, Any]) -> None:
    if ">>>" not in block.text:
        exec(compile(block.text, f"{page}:{block.line}", "exec"), names)
        return
    test = doctest.DocTestParser().get_doctest(block.text, names, page, page, block.line - 1)
    complaints = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
    runner.run(test, out=complaints.write, clear_globs=False)
    names.update(test.globs)
    assert not complaints.getvalue(), complaints.getvalue()


@pytest.fixture
def workplace(
    tmp_path: Path, fixtures: Path, monkeypatch: pytest.MonkeyPatch, programs: str
) -> Path:
    """A folder that has the fixtures and nothing else, as the one in which examples run."""
    (tmp_path / "fixtures").symlink_to(fixtures.resolve(), target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", programs)
    return tmp_path


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("page", EXECUTED)
def test_examples_print_what_the_page_shows(page: str) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language == "console":
            run_console(block, page)
        elif block.language == "python":
            with contextlib.redirect_stdout(io.StringIO()):
                run_python(block, page, names)


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_page_has_a_session_and_the_same_in_python(page: str) -> None:
    assert {"console", "python"} <= {block.language for block in blocks(page)}


def modules_with_examples() -> Iterator[str]:
    for found in pkgutil.walk_packages(loratools.__path__, "loratools."):
        path = ROOT / f"{found.name.replace('.', '/')}.py"
        if path.exists() and ">>> " in read(path):
            yield found.name


@pytest.mark.parametrize("name", [*modules_with_examples()])
def test_examples_in_docstrings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # where the fixtures are
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.attempted
    assert not result.failed


# Pages


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_guide_with_all_its_options(name: str) -> None:
    guide = read(f"docs/how-to/{GUIDES_OF.get(name, name)}.md")
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    # Those of formats are on the pages of the formats, as test_plugins sees to.
    of_formats = {option.name for dialect in formats.dialects() for option in dialect.options}
    of_all = {option.name for option in common_options()}
    options = [param for param in command.params if isinstance(param, click.Option)]
    missing = [
        param.opts
        for param in options
        if param.name not in (of_formats | of_all) and not any(opt in guide for opt in param.opts)
    ]
    assert not missing


def test_options_of_all_commands_are_on_the_page_of_the_command_line() -> None:
    page = read("docs/reference/cli.md")
    for option in common_options():
        assert "\n- " + ", ".join(f"`{flag}`" for flag in option.opts) + ":" in page


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_on_the_front_page(name: str) -> None:
    """Between the marks, from which `docs/index.md` takes the list."""
    verbs = read("README.md").split("<!-- verbs -->")[1].split("<!-- end of verbs -->")[0]
    line = f"\n- [`{name}`](docs/how-to/{GUIDES_OF.get(name, name)}.md"
    assert line in verbs, f"the list of verbs in README.md needs a line that begins with {line[1:]}"


def test_front_page_says_which_names_on_the_hub_are_made_up() -> None:
    readme = read("README.md")
    (sentence,) = re.findall(r"[^.:]* made-up names", readme)
    names = set(re.findall(r"\b(?:ann|ben)/[\w-]+", readme))
    assert names
    assert names == set(re.findall(r"`([^`]+)`", sentence))


@pytest.mark.parametrize("page", ["docs/design.md", "docs/reading-the-code.md", "CONTRIBUTING.md"])
def test_modules_that_a_page_names_are_there(page: str) -> None:
    text = read(page)
    named = re.findall(r"`((?:[a-z_]+/)+(?:[a-z_]+\.py)?)`", text)
    assert len(named) > 4
    package = ROOT / "loratools"
    assert [
        name for name in named if not ((package / name).exists() or (ROOT / name).exists())
    ] == []


@pytest.mark.parametrize("name", registry.names(formats))
def test_each_format_has_a_page(name: str) -> None:
    page = read(f"docs/formats/{name}.md")
    assert all(f"\n## {title}\n" in page for title in ("Keys", "Shapes", "Scaling", "Refusals"))
    assert f"(docs/formats/{name}.md)" in read("README.md")


@pytest.mark.parametrize("name", registry.names(peft_kinds))
def test_tensors_and_fields_of_each_codec_of_peft_are_on_its_page(name: str) -> None:
    codec: Codec = registry.load(peft_kinds, name).CODEC
    announced = () if codec.announced is None else (codec.announced.field,)
    for word in (*codec.roles, *codec.peft_type.shared, *codec.peft_type.inert, *announced):
        assert f"`{word.strip('.')}`" in read(PEFT) or f'"{word}"' in read(PEFT), word
    assert f"`{codec.peft_type.name}`" in read(PEFT)


@pytest.mark.parametrize("name", registry.names(module_kinds))
def test_tensors_of_each_codec_of_kohya_are_on_its_page(name: str) -> None:
    page = read("docs/formats/kohya.md")
    parts = {part for form in registry.load(module_kinds, name).CODEC.forms for part in form}
    assert [part for part in parts if f'"{part}"' not in page] == []


@pytest.mark.parametrize("name", registry.names(deltas))
def test_each_kind_is_explained(name: str) -> None:
    assert f"\n| `{name}` |" in read("docs/explanation/canonical-form.md")


@pytest.mark.parametrize("name", registry.names(methods))
def test_each_method_is_documented_with_its_paper_options_and_defaults(name: str) -> None:
    page = read("docs/reference/methods.md")
    section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
    module = registry.load(methods, name)
    paper = re.search(r"(?:arXiv|doi):([\w./]+\w)", module.__doc__ or "")
    assert paper
    assert paper[1] in section or "The same paper" in section
    assert "*When:*" in section
    (row,) = re.findall(rf"^\| \[`{name}`\].*$", page, re.MULTILINE)
    assert row.split(" | ")[1] == ("factors" if module.LOW_RANK else "matrix")
    options = dict(re.findall(r"`(\w+)` ([\w.]+)", row.split(" | ")[2]))
    assert tuple(options) == module.OPTIONS
    for option, default in options.items():
        constant = getattr(module, option.upper(), None)
        assert constant is None or constant == float(default)


@pytest.mark.parametrize("name", registry.names(methods))
def test_the_guide_says_when_to_use_each_method(name: str) -> None:
    rows = table("docs/how-to/combine.md", "Other ways to combine")
    assert [row[0] for row in rows if f"`{name}`" in row[0]], (
        f"docs/how-to/combine.md: the table of methods does not say when to use {name}"
    )


@pytest.mark.parametrize(
    "name",
    [*peft_refusals.NOT_WEIGHTS, *LORA.refused, *peft_refusals.CHANGED_BASE],
)
def test_each_refusal_of_a_peft_config_has_its_reason(name: str) -> None:
    refusals = read(PEFT).split("\n## Refusals\n")[1].split("\n## ")[0]
    assert f"`{name}`" in refusals


def test_command_line_reference_is_what_help_says() -> None:
    make_cli = load_script(DOCS / "make_cli.py")
    assert read(make_cli.PAGE) == make_cli.page(), "run scripts/docs"


def test_page_on_traps_is_what_they_say() -> None:
    make_traps = load_script(DOCS / "make_traps.py")
    assert read(make_traps.PAGE) == make_traps.page(), "run scripts/docs"


def test_page_on_names_is_what_the_rules_say() -> None:
    make_names = load_script(DOCS / "make_names.py")
    assert read(make_names.PAGE) == make_names.page(), "run scripts/docs"


@pytest.mark.parametrize("name", COMMANDS)
def test_command_line_reference_is_what_the_terminal_shows(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "loratools", name, "--help"],
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        check=True,
    )
    # `python -m` calls the program by its whole command line.
    usage, _, rest = done.stdout.decode().partition("\n")
    assert f"{name} [OPTIONS]" in usage
    assert rest.strip() in read("docs/reference/cli.md")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_to_files_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", read(page))
    files = [link for link in links if "://" not in link]
    assert [file for file in files if not (ROOT / file).exists()] == []


def load_script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Tables


def table(page: str, title: str) -> list[list[str]]:
    """The cells of the last table below a heading, without its own two head lines."""
    section = re.split(rf"^#+ {re.escape(title)}$", read(page), flags=re.MULTILINE)[1]
    section = re.split(r"^#", section, flags=re.MULTILINE)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_exit_codes_are_those_of_the_program() -> None:
    documented = {
        int(row[0]): row[2] for row in table("docs/reference/exit-codes.md", "Exit codes")
    }
    signals = {failures.exit_code(failures.stopped_by(number)) for number in STOPPING}
    codes = {code for _, code in failures._CODES} | signals | {failures.CHECK_FAILED, 70}
    assert documented.keys() == codes
    errors = {**vars(builtins), **vars(loratools.errors)}
    for code, text in documented.items():
        for name in re.findall(r"`(\w+)`", text):
            assert failures.exit_code(errors[name]()) == code


def test_each_error_is_in_the_table_of_exit_codes() -> None:
    text = read("docs/reference/exit-codes.md")
    errors = [e for e in vars(loratools.errors).values() if isinstance(e, type)]
    named = [e for e in errors if issubclass(e, LoratoolsError) and e is not LoratoolsError]
    assert len(named) >= 7
    assert [error.__name__ for error in named if f"`{error.__name__}`" not in text] == []


def fields(value: object, types: dict[str, str], path: str = "") -> Iterator[tuple[str, object]]:
    """Each field of a JSON object with its value, by its documented path; maps are not entered."""
    if isinstance(value, dict) and not types.get(path, "").startswith("map"):
        for name, inner in value.items():
            inner_path = f"{path}.{name}" if path else name
            yield inner_path, inner
            yield from fields(inner, types, inner_path)
    elif isinstance(value, list):
        for item in value:
            yield from fields(item, types, f"{path}[]")


def is_of_type(value: object, documented: str) -> bool:
    """Whether a JSON value is of a type as the page writes it: `list of string`, `X or null`."""
    if documented == "map to any or null":
        return value is None or isinstance(value, dict)
    if documented.startswith("map to "):
        inner = documented.removeprefix("map to ")
        return isinstance(value, dict) and all(is_of_type(v, inner) for v in value.values())
    one, is_either, other = documented.partition(" or ")
    if is_either:
        return is_of_type(value, one) or is_of_type(value, other)
    if documented.startswith("list of "):
        inner = documented.removeprefix("list of ")
        return isinstance(value, list) and all(is_of_type(item, inner) for item in value)
    if documented == "any":
        return True
    if documented == "matrix":
        rows = [row for row in value if isinstance(row, list)] if isinstance(value, list) else []
        square = all(len(row) == len(rows) for row in rows) and rows == value
        return square and all(is_of_type(x, "number or null") for row in rows for x in row)
    if isinstance(value, bool):
        return documented == "boolean"
    kinds = {"string": str, "integer": int, "number": int | float, "object": dict, "null": NoneType}
    return isinstance(value, kinds[documented])


def assert_documented(objects: list[dict[str, object]], title: str, *, some: bool = False) -> None:
    """That objects have the fields of a table, all of them unless `some`, and no others."""
    page = read("docs/reference/json.md")
    assert f"\n## {title}\n" in page, f"docs/reference/json.md has no section {title!r}"
    rows = table("docs/reference/json.md", title)
    types = {row[0].strip("`"): row[1] for row in rows}
    assert len(types) == len(rows)
    seen = {}
    for value in objects:
        # As a reader of the JSON gets it: without tuples.
        for path, inner in fields(json.loads(json.dumps(value)), types):
            assert path in types, f"{path} is not documented"
            assert is_of_type(inner, types[path]), f"{path} is {inner!r}, no {types[path]}"
            seen[path] = inner
    assert some or types.keys() - seen.keys() == set()


def test_fields_of_inspect_json_are_the_documented_ones(fixtures: Path) -> None:
    adapters, base = fixtures / "adapters", fixtures / "stories260k"
    objects = [
        loratools.inspect(adapters / "plain"),
        loratools.inspect(adapters / "dora", base=base, spectrum=True, blocks=True),
        loratools.inspect(adapters / "trainable-tokens", base=base),
        loratools.inspect(adapters / "gpt2-lora-bias-all", base=base, spectrum=True),
        loratools.inspect(fixtures / "real" / "privacyfilter-moe-tokcls-r16"),
    ]
    assert_documented([found.to_json() for found in objects], "inspect --json")


def test_fields_of_inspect_json_of_several_are_the_documented_ones(fixtures: Path) -> None:
    """An adapter's object also has those of an adapter alone, which have their own table."""
    title = "inspect --json, of several"
    found = loratools.inspect([fixtures / "real", fixtures / "nothing"])
    assert {row.verdict for row in found} == {"ok", "no adapter", "unreadable"}
    assert_documented([replace(row, inspection=None).to_json() for row in found], title)
    for row in found:
        if row.inspection is not None:
            assert row.inspection.to_json().items() <= row.to_json().items()


def test_fields_of_svd_extract_json_are_the_documented_ones(fixtures: Path, tmp_path: Path) -> None:
    base, adapters = fixtures / "stories260k", fixtures / "adapters"
    loratools.merge(base, [adapters / "plain", adapters / "dora"], output=tmp_path / "tuned")
    options = ExtractOptions(full=("*embed_tokens*",), skip=("*layers.0.mlp*",))
    reports = [
        svd_extract(
            tmp_path / "tuned",
            base,
            output=tmp_path / "out",
            rule=RankRule(rank=4),
            options=options,
            check=True,
        ),
        svd_extract(tmp_path / "tuned", base, dry_run=True),
    ]
    assert_documented([report.to_json() for report in reports], "svd-extract --json")


def test_fields_of_merge_json_are_the_documented_ones(fixtures: Path, tmp_path: Path) -> None:
    adapters, base = fixtures / "adapters", fixtures / "stories260k"
    odd = shutil.copytree(adapters / "combine-r4", tmp_path / "odd")
    config = json.loads((odd / "adapter_config.json").read_text())
    (odd / "adapter_config.json").write_text(json.dumps({**config, "use_rslora": 0}))
    reports = [
        loratools.merge(base, adapters / "dora", output=tmp_path / "dora"),
        loratools.merge(base, odd, output=None, options=MergeOptions(block_weights=["B00=0"])),
        loratools.merge(base, [(adapters / "plain", -1)], output=tmp_path / "without"),
        loratools.merge(base, [(adapters / "plain", -1)]),
        loratools.merge(
            base, [adapters / "embedding-vocab", adapters / "plain"], output=tmp_path / "two"
        ),
        loratools.merge(fixtures / "tiny-gpt2", adapters / "gpt2-conv1d", output=None),
        loratools.merge(
            write_packed(tmp_path / "packed", FORMATS["GPTQ"]),
            write_adapter(tmp_path / "adapter", pair(PLAIN, ROWS, COLUMNS)),
            output=None,
        ),
    ]
    assert_documented([report.to_json() for report in reports], "merge --json")


def test_fields_of_rescale_json_are_the_documented_ones(fixtures: Path, tmp_path: Path) -> None:
    adapter = fixtures / "adapters" / "gpt2-bias-all"
    rescaling = Rescaling(strength=0.5, keep_replaced=True)
    stabilised = fixtures / "adapters" / "rslora-patterns"
    reports = [
        loratools.rescale(adapter, rescaling=rescaling).report,
        loratools.rescale(adapter, output=tmp_path / "written", rescaling=rescaling),
        loratools.rescale(stabilised, repair=["rslora"]).report,
    ]
    assert_documented([report.to_json() for report in reports], "rescale --json")


def test_fields_of_combine_json_are_the_documented_ones(fixtures: Path, tmp_path: Path) -> None:
    adapters = [fixtures / "adapters" / name for name in ("combine-r4", "combine-r8")]
    vocabulary = fixtures / "adapters" / "embedding-vocab"
    first = Combination(replaced="first")
    reports = [
        loratools.combine(adapters).report,
        loratools.combine(adapters, rule=RankRule(rank=3), output=tmp_path / "three"),
        loratools.combine([*adapters, vocabulary], combination=first).report,
    ]
    assert_documented([report.to_json() for report in reports], "combine --json")


def test_fields_of_resize_json_are_the_documented_ones(fixtures: Path, tmp_path: Path) -> None:
    reports = [
        loratools.resize(fixtures / "adapters" / "dora", rank=2).report,
        loratools.resize(fixtures / "adapters" / "plain", size=100_000, output=tmp_path / "small"),
    ]
    assert_documented([report.to_json() for report in reports], "resize --json")


def test_table_of_rounding_is_what_a_merge_reports(fixtures: Path, tmp_path: Path) -> None:
    base, adapter = fixtures / "stories260k-bf16-sharded", fixtures / "adapters" / "plain"
    for number, (weight, *shown) in enumerate(
        table("docs/explanation/rounding.md", "Stochastic rounding")
    ):
        found = []
        for seed in (None, 0):
            report = loratools.merge(
                base,
                adapter,
                weights=[float(weight)],
                output=tmp_path / f"{number}-{seed}",
                write=WriteOptions(seed=seed),
            )
            total = report.total
            assert total is not None
            found.append(f"{100 * total.relative_error:.0f} %")
            found.append(f"{100 * total.product / total.intended:.1f} %")
        assert found == shown


# Shell completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_of_the_guide(shell: str) -> None:
    assert f"_LORATOOLS_COMPLETE={shell}_source loratools" in read(
        "docs/how-to/shell-completion.md"
    )
    done = complete({"_LORATOOLS_COMPLETE": f"{shell}_source"})
    assert b"_loratools_completion" in done.stdout


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("loratools in", ["inspect"]),
        ("loratools merge --rou", ["--rounding"]),
        ("loratools merge --rounding ", ["nearest", "stochastic"]),
    ],
)
def test_completion_completes(line: str, expected: list[str]) -> None:
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    done = complete({"_LORATOOLS_COMPLETE": "bash_complete", **words})
    assert done.stdout.decode().split() == [f"plain,{word}" for word in expected]


def complete(variables: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    """What the installed command does for a shell: quietly, and with success."""
    program = Path(sys.executable).parent / "loratools"
    done = subprocess.run(
        [program], env={**os.environ, **variables}, capture_output=True, check=False
    )
    assert (done.stderr, done.returncode) == (b"", 0)
    return done
