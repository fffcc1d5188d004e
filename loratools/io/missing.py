"""What was probably meant by a path that leads to nothing: a name near it, or one on the Hub."""

import os
import re
from pathlib import Path
from urllib.parse import unquote

from loratools.errors import FormatError, OutputError, listing
from loratools.nearest import nearest
from loratools.typed import as_typed, worded

_HUB = "huggingface.co"
#: A variable of a shell: `$OUT`, `${OUT}`, and `%OUT%` on Windows.
_VARIABLE = re.compile(r"\$\w+|\$\{\w+\}|%\w+%")
#: What word processors and web pages make of the two dashes of an option.
_LONG_DASHES = ("\N{EM DASH}", "\N{EN DASH}")
_NUMBER = r"-?\d*\.?\d+"
#: An address on the Hub's pages; a `Path` has one slash where an address has two.
_PAGE = re.compile(
    r"(?:https?:/{1,2})?(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<repo>[\w.-]+/[\w.-]+)/?"
    r"(?:(?:tree|blob|resolve|raw)/(?P<revision>refs/pr/\d+|[^/?#]+)/?(?P<path>[^?#]*))?"
)
_ADDRESS = re.compile(
    r"[a-z][a-z0-9+]+:/|(www\.)?(huggingface\.co|hf\.co|civitai\.com)/", re.IGNORECASE
)
_REPO = re.compile(r"(?:hf:)?([\w-][\w.-]*/[\w-][\w.-]*(?:@[\w./%-]+)?(?:/[\w./ -]+)?)/?")
_NO_MODELS = ("datasets/", "spaces/", "docs/", "papers/", "collections/")
_WEIGHTS = ".safetensors"
#: A prompt of stable-diffusion-webui names a file of its folder without the suffix.
_PROMPT = re.compile(r"<\w+:(?P<name>[^:<>]+)(?::(?P<weight>[^:<>]*))?(?::[^<>]*)?>")
#: Entries of a folder that are looked at.
_MOST = 10_000


def refuse_missing(path: str | Path) -> None:
    """Refuse a path that leads to nothing, and say what was probably meant.

    Raises:
        FormatError: there is no such file or folder.
        OSError: the system cannot tell.
    """
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        what, _, hint = (broken_link(Path(path)) or _instead_of(str(path))).partition("; ")
        raise FormatError(f"{path}: {what}", file=path, hint=hint) from None


def hub_name_of(address: str) -> str | None:
    """The `hf://` name of an address of the Hub's pages; None for any other text.

    >>> hub_name_of("https://huggingface.co/ben/tales/blob/main/x.safetensors")
    'hf://ben/tales/x.safetensors'
    """
    found = _PAGE.match(address)
    if found is None or found["repo"].startswith(_NO_MODELS):
        return None
    revision = "" if found["revision"] in (None, "main") else f"@{found['revision']}"
    path = unquote(found["path"] or "").strip("/")
    return f"hf://{found['repo']}{revision}" + (f"/{path}" if path else "")


def hub_name_of_page(path: str) -> str | None:
    """The `hf://` name of a page at this path of the Hub, if that says more than a name does.

    >>> hub_name_of_page("ben/tales/blob/v1/x.safetensors")
    'hf://ben/tales@v1/x.safetensors'
    >>> hub_name_of_page("ben/tales/x.safetensors")
    """
    found = _PAGE.fullmatch(f"{_HUB}/{path}")
    return hub_name_of(f"{_HUB}/{path}") if found and found["revision"] else None


def named_in_prompt(text: str) -> tuple[str, str] | None:
    """The file and the weight that a part of a prompt stands for; None for any other text.

    >>> named_in_prompt("<lora:style:0.7>")
    ('style.safetensors', '0.7')
    """
    found = _PROMPT.fullmatch(text)
    if found is None:
        return None
    name = found["name"].removesuffix(_WEIGHTS)
    return f"{name}{_WEIGHTS}", found["weight"] or "1"


def broken_link(path: Path) -> str | None:
    """What a link that leads to nothing is, and what to do; None for anything else.

    Such are left where a part of the Hub's cache is copied, which is full of links.
    """
    if not path.is_symlink():
        return None
    where = f"a link to {path.readlink()}, which is not there"
    return f"{where}; download it again, or copy it with what it leads to (cp -rL)"


def _instead_of(name: str) -> str:
    """What a name that leads to nothing is, and what to do."""
    if (on_hub := hub_name_of(name)) is not None:
        return f"an address, and not a file; did you mean {on_hub}?"
    if name.lower().startswith("file:/"):
        return f"an address, and not a path; did you mean /{unquote(name[5:]).lstrip('/')}?"
    if hub := re.match(r"hf:/+(?=\w)", name, re.IGNORECASE):
        return f"no such file or folder; did you mean hf://{name[hub.end() :]}?"
    if _ADDRESS.match(name):
        return "an address, and not a file; download it, and name the file"
    if (named := named_in_prompt(name)) is not None:
        return f"written as in a prompt, and not a path; did you mean {named[0]}?"
    others = (name.strip(" '\"\n\r"), _at_home(name), name.replace("\\", "/"))
    for other in others:
        if other not in ("", name) and Path(other).exists():
            return f"no such file or folder; did you mean {other}?"
    return f"no such file or folder; {_miswritten(name) or _nearby(Path(_at_home(name)), name)}"


def no_such_folder(folder: Path) -> OutputError:
    """The error for a folder for an output that is not there."""
    # An address, of whose two slashes a Path has one.
    if address := re.match(r"([A-Za-z][\w+.-]+):(/|$)", str(folder)):
        written = f"{address[1]}://{str(folder)[address.end() :]}"
        hint = "name a path on this machine, and send what is written there"
        return OutputError(f"{written}: an address, and not a folder", hint=hint)
    home = _at_home(f"{folder}/")
    if home != f"{folder}/":
        hint = f"write {home}, as only shells read ~"
    else:
        hint = _unset(str(folder)) or "make it first"
    return OutputError(f"{folder}: no such folder", hint=hint)


def weights_beside(path: str) -> str | None:
    """What to name in place of a file that is none of weights: weights of its name beside it."""
    weights = Path(path).with_suffix(_WEIGHTS) if Path(path).name else Path()
    return f"did you mean {weights}?" if str(weights) != path and os.path.lexists(weights) else None


def _unset(name: str) -> str | None:
    """What to do about a variable in a name, which only a shell puts a value for."""
    if (found := _VARIABLE.search(name)) is None:
        return None
    why = worded("or put it in double quotes, in which the shell does", "as only shells read it")
    return f"write what {found[0]} stands for, {why}"


def _miswritten(name: str) -> str | None:
    """What to write in place of a name that is not one of a file, but of something else."""
    if name == "-":
        return "standard input is not read: name a file"
    if name.startswith(_LONG_DASHES):
        option = as_typed(name[1:].lstrip("-").replace("-", "_"))
        return f"did you mean {option}?"
    if (advice := _unset(name)) is not None:
        return advice
    parts = re.split(r"[,;\s]+", name)
    if len(parts) > 1 and all(part and Path(part).exists() for part in parts):
        return f"name each by itself: {' '.join(parts)}"
    if re.fullmatch(_NUMBER, name):
        return "a number, where a path belongs: several weights are one list, as in 0.7,0.3"
    stem, _, number = name.rpartition(":")
    if stem and re.fullmatch(_NUMBER, number) and Path(stem).exists():
        return f"did you mean {stem}? It takes no weight here"
    if re.match(r"[A-Za-z]:[\\/]", name):
        here = f"/mnt/{name[0].lower()}/{name[3:]}".replace("\\", "/")
        return f"a path of Windows: write it as this system has it, such as {here} in WSL"
    return _pattern(name) if re.search(r"[*?\[{]", name) else None


def _pattern(name: str) -> str:
    """What to do about a pattern, for which only a shell puts names."""
    from glob import iglob

    if "{" in name or any(True for _ in iglob(name)):  # noqa: PTH207 - a Path takes no absolute one
        return worded("write this pattern without quotes", "give the paths that glob.glob finds")
    return "no name fits this pattern: check its folder and its ending"


def _at_home(name: str) -> str:
    """The path with the user's folder in place of `~`, as shells replace it."""
    return str(Path.home() / name[2:]) if name.startswith("~/") else name


def _nearby(path: Path, name: str) -> str:
    """The nearest name in the last folder of a path that exists, or what is in there."""
    here = next((parent for parent in path.parents if parent.is_dir()), Path())
    part, *rest = path.relative_to(here).parts if path.parts else ("",)
    names = _names(here)
    same = [n for n in names if Path(n).stem in (part, Path(part).stem)]
    # A picture or a text of the same name lies beside many a file of weights.
    found = min(same, key=lambda n: not n.lower().endswith(_WEIGHTS), default=nearest(part, names))
    if found is not None:
        whole = Path(here, found, *rest)
        return f"did you mean {whole if whole.exists() else here / found}?"
    is_plain = here == Path() and not name.startswith((".", "/"))
    on_hub = _REPO.fullmatch(name) if is_plain else None
    if on_hub is not None and (rest[1:] or path.suffix != ".safetensors"):
        meant = hub_name_of_page(on_hub[1]) or f"hf://{on_hub[1]}"
        return f"did you mean {meant} on the Hub?"
    where = "this folder" if here == Path() else str(here)
    shown = [each for each in names if not each.startswith(".")]
    return f"check the name: in {where} there is {listing(shown, 3) or 'nothing'}"


def _names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry, _ in zip(entries, range(_MOST), strict=False))
    except OSError:
        return []
