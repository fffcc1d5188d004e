"""Make `loratools/names/layouts.json` of the lists of published models' tensors and the rules.

Usage: `python scripts/make_layouts.py`, in a checkout. The tensors of `tests/names/key_lists/` have
the original names, other programs' names for some of them (`also`), and by the rules of
`loratools/names/aliases/` diffusers' names. The paths of modules with a matrix or a kernel are
kept, as a tree of words in which `#` stands for every number.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from loratools.names.patterns import depths_of  # noqa: E402
from loratools.names.rules import Rows, parse_rules  # noqa: E402
from tests.names.key_lists import KeyList, key_list  # noqa: E402

OUTPUT = ROOT / "loratools" / "names" / "layouts.json"

#: The models whose modules have the same names, by the name of their family.
FAMILIES = {
    "Stable Diffusion 1, 2 and XL": ("sd1", "sd2", "sdxl"),
    "Stable Diffusion 3": ("sd3", "sd35_medium"),
    "Anima": ("anima",),
    "AuraFlow": ("auraflow",),
    "Chroma": ("chroma",),
    "ERNIE-Image": ("ernie_image",),
    "FLUX.1": ("flux1",),
    "FLUX.2": ("flux2",),
    "HiDream-I1": ("hidream_i1",),
    "HunyuanVideo": ("hunyuan_video",),
    "Krea 2": ("krea2",),
    "LTX-2": ("ltx2",),
    "LTX-Video": ("ltx_video",),
    "Lumina 2": ("lumina2",),
    "Mochi": ("mochi",),
    "Qwen-Image": ("qwen_image",),
    "Qwen-Image 2.1": ("qwen_image_21",),
    "Wan": ("wan21_i2v", "wan21_t2v", "wan21_vace"),
    "Z-Image": ("z_image",),
}
#: Text encoders, which every format names as transformers does: by their component of a pipeline.
ENCODERS = {
    "CLIP": (("clip_l", "openclip_g"), "text_encoder"),
    "T5": (("t5_xxl",), "text_encoder_3"),
}


def modules(names: Iterable[str]) -> Iterator[str]:
    """The paths of modules with a weight, with `#` for numbers."""
    for name in names:
        module, _, parameter = name.rpartition(".")
        if parameter == "weight":
            yield re.sub(r"(?<![^.])\d+(?![^.])", "#", module)


def tree(paths: Iterable[str]) -> dict[str, Any]:
    """Paths as nested objects; the last word of a path has the empty word in it."""
    root: dict[str, Any] = {}
    for path in sorted(set(paths)):
        node = root
        for word in path.split("."):
            node = node.setdefault(word, {})
        node[""] = 0
    return root


def matrices(shapes: dict[str, tuple[int, ...]]) -> list[str]:
    """The names of tensors with two dimensions or more."""
    return [name for name, shape in shapes.items() if len(shape) > 1]


def in_diffusers(model: KeyList) -> list[str]:
    """The names that diffusers has for the matrices of a model."""
    rules, depths = parse_rules(model.rules_text())[1], depths_of(model.tensors)
    return [
        part.diffusers
        for name in matrices(model.tensors)
        for part in rules.parts(name, depths) or ()
    ]


def in_comfyui(model: KeyList) -> list[str]:
    """The names that ComfyUI has for the matrices of a model: others for some of the same tensors.

    A name for a part of a tensor is none of them.
    """
    rules, depths = parse_rules(model.rules_text())[1], depths_of(model.tensors)

    def meaning(name: str) -> list[tuple[str, Rows]]:
        return [(part.diffusers, part.rows) for part in rules.parts(name, depths) or ()]

    others = [(name, meaning(name)) for name in matrices(model.others)]
    return [
        next((other for other, parts in others if parts and parts == meaning(name)), name)
        for name in matrices(model.tensors)
    ]


def layout(models: Sequence[KeyList], component: str) -> dict[str, Any]:
    """The trees of a family: the original names, ComfyUI's where they differ, and diffusers'."""
    found = {
        "original": tree(modules(name for model in models for name in matrices(model.tensors))),
        "comfyui": tree(modules(name for model in models for name in in_comfyui(model))),
        "diffusers": tree(modules(name for model in models for name in in_diffusers(model))),
    }
    if found["comfyui"] == found["original"]:
        del found["comfyui"]
    return {"component": component, **found}


def layouts() -> dict[str, Any]:
    """The content of the file."""
    made = {}
    for family, names in FAMILIES.items():
        models = [key_list(name) for name in names]
        made[family] = layout(models, parse_rules(models[0].rules_text())[0]["component"])
    for family, (names, component) in ENCODERS.items():
        trees = layout([key_list(name) for name in names], component)
        made[family] = {"component": component, "transformers": trees["diffusers"]}
    return made


def main() -> None:
    """Write the file."""
    OUTPUT.write_text(json.dumps(layouts(), separators=(",", ":")) + "\n")
    print(f"{OUTPUT}: {OUTPUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
