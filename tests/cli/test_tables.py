"""How wide tables are: as the terminal, as COLUMNS says, and without a width in a pipe."""

import fcntl
import os
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from click.testing import CliRunner

import loratools
from loratools.cli import cli
from tests.e2e.commands import FIXTURES

LOCON = FIXTURES / "kohya/sd15-locon"
LONGEST = "lora_unet_down_blocks_*_attentions_*_transformer_blocks_*_attn1_to_out_*"
COMMAND = [sys.executable, "-m", "loratools", "inspect", str(LOCON)]


def on_a_terminal(width: int) -> str:
    """What `inspect` prints on a terminal of this width."""
    ours, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    environment = {**os.environ, "TERM": "xterm"}
    environment.pop("COLUMNS", None)
    with subprocess.Popen(COMMAND, stdout=its, stdin=its, stderr=its, env=environment):
        os.close(its)
        shown = b""
        while True:
            try:
                read = os.read(ours, 4096)
            except OSError:  # Linux's answer where the other end is closed
                break
            if not read:
                break
            shown += read
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


def table(text: str) -> list[str]:
    """The lines of the table of targets."""
    return text[text.index("targets ") :].split("\nNote:", maxsplit=1)[0].splitlines()


@pytest.mark.skipif(sys.platform == "win32", reason="has no pseudo-terminals")
def test_a_table_is_as_wide_as_the_terminal_with_bold_headings() -> None:
    text = on_a_terminal(60)
    assert "\x1b[1mtargets" in text
    plain = text.replace("\x1b[1m", "").replace("\x1b[2m", "").replace("\x1b[0m", "")
    assert "\x1b" not in plain
    assert 50 < max(map(len, table(plain))) <= 60


def test_in_a_pipe_a_row_is_one_line_without_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    text = CliRunner().invoke(cli, ["inspect", str(LOCON)]).stdout
    assert "\x1b" not in text
    assert f"\n{LONGEST}  " in text


@pytest.mark.parametrize("width", [60, 80, 200])
def test_columns_sets_the_width_in_a_pipe(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = CliRunner().invoke(cli, ["inspect", str(LOCON), "--spectrum"]).stdout
    assert max(map(len, table(text))) <= width
    assert (LONGEST in text) == (width == 200)


@pytest.mark.parametrize("asked", ["0", "", "wide", "-5"])
def test_a_width_that_is_none_is_not_asked_for(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", asked)
    assert LONGEST in CliRunner().invoke(cli, ["inspect", str(LOCON)]).stdout


@pytest.mark.parametrize("width", ["60", "80"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "plain", "--base", "../stories260k", "--spectrum", "--blocks", "--modules"],
        ["merge", "../stories260k", "combine-r4", "--dry-run"],
        ["merge", "../stories260k", "combine-r4", "-v", "-o", "OUT"],
        ["combine", *["combine-r4", "combine-r8"] * 6, "--rank", "4", "--modules", "--dry-run"],
        ["resize", "combine-r8", "--energy", "0.9", "--dry-run"],
        ["rescale", "plain", "--strength", "0.5", "--dry-run"],
        ["rescale", "rslora-patterns", "--repair", "--dry-run"],
        ["inspect", "plain", "dora", "../kohya/sd15-locon"],
        ["svd-extract", "TUNED", "../stories260k", "--rank", "2", "--modules", "-o", "OUT"],
        ["swap", "TUNED", "--in", "combine-r4", "--dry-run"],
        ["formats"],
    ],
    ids=lambda arguments: "-".join(arguments[:1]),
)
def test_tables_of_every_verb_fit(
    arguments: list[str], width: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All lines but those of text, which terminals wrap."""
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.chdir(FIXTURES / "adapters")
    paths = {"OUT": str(tmp_path / "out"), "TUNED": str(tmp_path / "tuned")}
    if "TUNED" in arguments:
        loratools.merge("../stories260k", ["plain"], output=paths["TUNED"])
    result = CliRunner().invoke(cli, [paths.get(each, each) for each in arguments])
    assert result.exit_code == 0, result.output
    rows = [line for line in result.stdout.splitlines() if "  " in line.strip()]
    assert rows
    assert max(map(len, rows)) <= int(width)
