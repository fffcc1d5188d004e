"""Make `loratools/names/layouts.json` of the key lists of image and video models.

Usage: `python scripts/make_layouts.py FOLDER`. The folder has a JSON file for each model, with
`original` and `diffusers`, which map the keys of its checkpoint in either layout to shapes, the
`component` that the model is in a pipeline, and perhaps `original_alternative`, ComfyUI's names for
some of the original keys. Of these, the paths of modules with a matrix or a kernel are kept, as a
tree of words in which `#` stands for every number.

Flattening and unflattening is then checked with every key of every file.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).parent.parent / "loratools" / "names" / "layouts.json"

#: The models whose modules have the same names, by the name of their family.
FAMILIES = {
    "Stable Diffusion 1, 2 and XL": ("sd1", "sd2", "sdxl"),
    "Stable Diffusion 3": ("sd3", "sd35_medium"),
    "Anima": ("anima",),
    "AuraFlow": ("auraflow",),
    "Chroma": ("chroma",),
    "ERNIE-Image": ("ernie_image",),
    "Flux.1": ("flux1",),
    "Flux.2": ("flux2",),
    "HiDream-I1": ("hidream_i1",),
    "HunyuanVideo": ("hunyuan_video",),
    "Krea 2": ("krea2",),
    "LTX-2": ("ltx2",),
    "LTX-Video": ("ltx_video",),
    "Lumina 2": ("lumina2",),
    "Mochi": ("mochi",),
    "Qwen-Image": ("qwen_image",),
    "Wan": ("wan21_i2v", "wan21_t2v", "wan21_vace"),
    "Z-Image": ("z_image",),
    "CLIP": ("clip_l",),
    "T5": ("t5_xxl",),
}
#: Text encoders, which every format names as transformers does.
ENCODERS = ("CLIP", "T5")


def modules(shapes: Mapping[str, list[int]]) -> Iterator[str]:
    """The paths of modules whose weight has two dimensions or more, with `#` for numbers."""
    for key, shape in shapes.items():
        module, _, parameter = key.rpartition(".")
        if parameter == "weight" and len(shape) > 1:
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


def namings(models: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The trees of a family: the original names, ComfyUI's where they differ, and diffusers'."""
    found: dict[str, list[str]] = {"original": [], "comfyui": [], "diffusers": []}
    for model in models:
        found["original"] += modules(model["original"])
        found["diffusers"] += modules(model["diffusers"])
        alternative = model.get("original_alternative") or {"names": {}}
        theirs = {original: name for name, original in alternative["names"].items()}
        found["comfyui"] += modules({theirs.get(k, k): s for k, s in model["original"].items()})
    trees = {naming: tree(paths) for naming, paths in found.items()}
    if trees["comfyui"] == trees["original"]:
        del trees["comfyui"]
    return trees


def main() -> None:
    """Write the file, and check it with every key that it was made of."""
    folder = Path(sys.argv[1])
    models = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    layouts: dict[str, Any] = {}
    for family, names in FAMILIES.items():
        trees = namings(models[name] for name in names)
        if family in ENCODERS:
            trees = {"transformers": trees["diffusers"]}
        layouts[family] = {"component": models[names[0]]["component"], **trees}
    OUTPUT.write_text(json.dumps(layouts, separators=(",", ":")) + "\n")
    print(f"{OUTPUT}: {OUTPUT.stat().st_size} bytes")
    check(models)


def check(models: Mapping[str, Any]) -> None:
    """Check that unflattening a flattened module gives back its path, for every key."""
    from loratools.names.layouts import readings

    counts = {"one reading": 0, "several": 0}
    for family, names in FAMILIES.items():
        for side in () if family in ENCODERS else ("original", "diffusers"):
            for form in {form for name in names for form in modules(models[name][side])}:
                path = form.replace("#", "7")
                own = {r.path for r in readings(path.replace(".", "_")) if r.family == family}
                assert path in own, path
                found = {reading.path for reading in readings(path.replace(".", "_"))}
                counts["one reading" if len(found) == 1 else "several"] += 1
                if len(found) > 1:
                    print(f"{family}, {side}: {path} is one of {', '.join(sorted(found))}")
    print(counts)


if __name__ == "__main__":
    main()
