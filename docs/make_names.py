"""Write `reference/names.md` from the rules of names; with `--check`, only compare."""

import re
import sys
from pathlib import Path

import loratools.names
from loratools.names.rules import parse_rules

NAMES = Path(loratools.names.__file__).parent
ALIASES = NAMES / "aliases"
PAGE = Path(__file__).parent / "reference" / "names.md"

_HEAD = """\
<!-- Made by docs/make_names.py from loratools/names/aliases/: run scripts/docs, do not edit. -->

# Names of tensors

Image and video models, and their text encoders, are published in two layouts: with the names of
their authors, often as one file, and with those of diffusers, often as a folder. The same weight
has two names then, or is a part of a larger one: many authors have queries, keys and values in one
tensor, and diffusers has three. These rules map one layout to the other, in both directions. Each
architecture has a file of them in `loratools/names/aliases/`, which this page shows.

The tests derive all of it again from diffusers' own converters of checkpoints: for the tensors of
published models in their original layout, names, shapes and rows must be those that diffusers
gives, with none missing, none left over, and none unused without a reason.
`scripts/derive-names --all` prints the comparison as a table, and `scripts/derive-names MODEL`
proposes rules for a model that is added.

## A rule

    ORIGINAL [ROWS] = DIFFUSERS

names a module or a parameter. What follows in a name, such as `.weight` or the modules inside, is
the same on both sides. If several rules fit a name, the longest holds.

| in a rule | means |
|---|---|
| `{i}` | any number |
| `{last}` | the number of the last block of the model |
| `{3i+j+1}` with `where i = 0..3, j = 0..1` | a rule for each of these numbers |
| `[1/3:2/3]` | diffusers' tensor has these rows of the original one: here the second third |
| `[1/2:1, 0:1/2]` | it has these rows in this order: here the halves are exchanged |
| `[0:n]`, `[-2n:-n]`, `[-n:]` | `n` is the number of rows of diffusers' tensor |
| `[transposed]` | the axes of the matrix are exchanged |
| `[reshaped]` | the same numbers are stored in another shape |
| `= none: REASON` | diffusers does not have this tensor |

An adapter of some rows of a weight adds to these rows. The rows are taken from the `up` factor, and
`down` is the same for all parts.

A model is recognised as the architecture whose rules know most of its names, at least nine tenths.
Another model may have as many: an encoder of images has the layers of one of text, a ControlNet has
those of its model. So an architecture can list words of which one must be in some name, such as the
token embedding of a text encoder, and words that may be in none. A model that does not comply is
recognised as nothing, and its names are its own.

## Where diffusers converts adapters otherwise

diffusers has other code to convert adapters than to convert checkpoints. For these modules, the two
do not agree in diffusers 0.42.1, as measured: what it does with an adapter there is not what the
adapter was trained to do. loratools applies the rules, and the tests compare with diffusers' code
for checkpoints.

| adapter of | with names of | diffusers |
|---|---|---|
| FLUX.1 | kohya | leaves the component out of the names of modules outside of blocks |
| FLUX.2 | kohya | drops the guidance, the shared modulations and the final modulation |
| FLUX.2 | ComfyUI | does not exchange the halves of the final modulation |
| HunyuanVideo | ComfyUI | exchanges the halves of the final modulation's `down` too |
| HunyuanVideo | ComfyUI | cuts `down` of the token refiner's fused attention into three |
| LTX-Video | ComfyUI | leaves the original names of first layer and time embedding |
| Stable Diffusion XL | kohya | gives both layers of the embedding of sizes one name |
| Wan | ComfyUI | refuses modules outside of blocks, such as the patch embedding |
| Z-Image | ComfyUI | leaves the original names of attention, first and last layer |
| Z-Image | kohya | leaves the original names of first and last layer |

diffusers' converter of Wan checkpoints leaves `img_emb.emb_pos`, which the model for first and last
frames has, with its original name.
"""


_MODULES = """\
## Modules of language models

These rules are in `loratools/names/modules.txt`. They hold for modules with these last words
anywhere in a base: under any prefix, and in the language or the vision model of another one. Right
of the sign of equality is the name of a part or of the whole in other classes or exports.

| before the rules | means |
|---|---|
| `models` | the values of `model_type` whose checkpoints store the modules so |
| `parts: any` | an adapter of the fused weight is applied to any base that has the parts |
| `queries` | the module with as many columns as the first part has rows |
"""


def page() -> str:
    """The text of the page, from the files of rules."""
    files = sorted(ALIASES.glob("*.txt"), key=lambda path: _fields(path)["name"].lower())
    return "\n".join([_HEAD, *map(_section, files), _modules()])


def _modules() -> str:
    """The rules of modules, as their file has them, without its comments."""
    lines = (NAMES / "modules.txt").read_text("utf-8").splitlines()
    rules = "\n".join(line for line in lines if not line.startswith("#")).strip()
    return f"{_MODULES}\n{re.sub(r'^(?=.)', '    ', rules, flags=re.MULTILINE)}\n"


def _fields(path: Path) -> dict[str, str]:
    return parse_rules(path.read_text(encoding="utf-8"))[0]


def _section(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    fields, rules = parse_rules(text)
    about, body = re.split(r"^(?=name: )", text, maxsplit=1, flags=re.MULTILINE)
    _, _, lines = body.partition("\n\n")
    count = len(re.findall(r"(?m)^[^#\n].* = ", lines))
    patterns = f", with numbers {len(rules.rules)}" if len(rules.rules) > count else ""
    return (
        f"## {fields['name']}\n\n{re.sub(r'(?m)^# ', '', about)}\n"
        f"`{path.name}`, for a `{fields['component']}`, has {count} rules{patterns}."
        f"{_words('A name must have', fields.get('holds'))}"
        f"{_words('No name may have', fields.get('lacks'))}\n\n"
        f"```text\n{lines.rstrip()}\n```\n"
    )


def _words(said: str, words: str | None) -> str:
    """A sentence on words of names; empty without any."""
    listed = " or ".join(f"`{word}`" for word in (words or "").split(" or "))
    return f"\n{said} the word {listed}." if words else ""


def main() -> None:
    """Write the page, or with `--check` exit with an error if it is not current."""
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page(), encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page():
        sys.exit(f"{PAGE}: not what the rules of names say now; run scripts/docs")


if __name__ == "__main__":
    main()
