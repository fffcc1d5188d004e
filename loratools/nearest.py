"""The name that was probably meant by one that is not known, for the end of a message."""

from collections.abc import Iterable, Mapping, Sequence

#: How alike two words are at least, from 0 to 1: `inspekt` and `inspect` are 0.86.
_ALIKE = 0.6

#: What other programs call the commands and functions, and what people look for. The first that is
#: known counts: `load` opens an adapter in Python, where there is a function for that.
_OTHER_WORDS = {
    "open-adapter": (
        "open",
        "load",
        "read",
        "load-adapter",
        "read-adapter",
        "from-pretrained",
        "load-lora",
        "load-lora-weights",
        "load-file",
        "safe-open",
        "peftmodel",
    ),
    "adapter-from-tensors": ("from-tensors", "from-state-dict", "make-adapter", "create-adapter"),
    "inspect": (
        "info",
        "show",
        "describe",
        "view",
        "list",
        "ls",
        "stats",
        "check",
        "print",
        "verify",
    ),
    "merge": ("apply", "fuse", "bake", "load", "merge-and-unload"),
    "svd-extract": ("extract", "diff", "distill"),
    "combine": ("mix", "blend", "add", "sum", "average", "concat", "cat", "merge-adapters"),
    "resize": ("prune", "shrink", "truncate", "compress", "reduce", "rank"),
    "rescale": ("scale", "weight", "alpha", "strength", "repair", "fix"),
    "convert": ("export", "translate", "save", "save-adapter", "to"),
    "pull": ("download", "get", "fetch", "clone"),
    "push": ("upload", "publish"),
    "swap": ("switch", "replace", "unload", "unmerge", "unfuse", "remove", "undo", "restore"),
}

#: The same for arguments in Python. Options of commands have other dashes, and letters alone.
_OTHER_ARGUMENTS = {
    "rank": ("r", "dim", "k", "lora-rank", "network-dim"),
    "strength": ("scale", "scaling", "factor", "multiplier", "weight", "ratio", "lora-scale"),
    "weights": ("scale", "scaling", "strength", "multiplier", "ratio", "alphas", "lora-scale"),
    "method": ("combination-type", "merge-method", "how", "mode", "strategy"),
    "output": ("save-to", "output-dir", "out-dir", "save-directory", "dest", "file", "o"),
    "overwrite": ("force", "exist-ok", "replace", "clobber"),
    "jobs": ("threads", "workers", "num-workers", "num-threads", "max-workers", "num-proc"),
    "progress": ("verbose", "tqdm", "bar", "callback"),
    "only": ("include", "target-modules", "targets", "modules", "layers", "filter"),
    "skip": ("exclude", "exclude-modules", "ignore"),
    "drop": ("exclude", "skip", "ignore", "remove"),
    "to": ("format", "target", "target-format"),
    "dtype": ("precision", "torch-dtype", "save-precision"),
    "seed": ("random-state", "rng", "generator"),
    "size": ("max-size", "nbytes"),
    "error": ("tolerance", "tol"),
    "tuned": ("model", "finetuned", "fine-tuned", "target"),
    "base": ("model", "base-model"),
    "adapter": ("path", "folder", "file", "lora", "model"),
    "adapters": ("path", "paths", "lora", "loras"),
    "path": ("folder", "file", "adapter"),
    "tensors": ("state-dict", "weights"),
    "config": ("peft-config", "lora-config"),
    "name": ("repo", "repo-id"),
    "repo": ("name", "repo-id"),
}

#: The same for values: dtypes, and formats by the programs that write or read them.
_OTHER_VALUES = {
    "float16": ("fp16", "f16", "half"),
    "bfloat16": ("bf16",),
    "float32": ("fp32", "f32", "float", "full"),
    "float64": ("fp64", "f64", "double"),
    "kohya": (
        "a1111", "automatic1111", "webui", "sd-webui", "forge", "civitai", "kohya-ss", "sd-scripts",
    ),
    "comfyui": ("comfy", "comfy-ui", "ai-toolkit", "onetrainer"),
    "mlx": ("mlx-lm", "mlx-vlm"),
    "peft": ("hf", "huggingface", "transformers", "vllm"),
}  # fmt: skip


def nearest(word: str, known: Iterable[str], alike: float = _ALIKE) -> str | None:
    """The known name most like a word, if any is; case and the sort of dash do not count.

    >>> nearest("svd_extrakt", ["resize", "svd-extract"])
    'svd-extract'
    """
    from difflib import get_close_matches

    plain = {_plain(name): name for name in known}
    found = get_close_matches(_plain(word), plain, n=1, cutoff=alike)
    return plain[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about a word that is not known; empty if no name is like it.

    >>> did_you_mean("tie", ["slerp", "ties"])
    "; did you mean 'ties'?"
    """
    found = _meant(word, known, _OTHER_VALUES)
    return "" if found is None else f"; did you mean {found!r}?"


def meant(word: str, known: Iterable[str]) -> str | None:
    """The known name for which other programs have this word, or else the one most like it.

    >>> meant("extract", ["svd_extract", "ExtractRun"])
    'svd_extract'
    """
    return _meant(word, known, _OTHER_WORDS)


def meant_argument(word: str, known: Iterable[str]) -> str | None:
    """The same for the argument of a function.

    >>> meant_argument("r", ["output", "rank"])
    'rank'
    """
    return _meant(word, known, _OTHER_ARGUMENTS)


def _meant(word: str, known: Iterable[str], other: Mapping[str, Sequence[str]]) -> str | None:
    plain = {_plain(name): name for name in known}
    for name, words in other.items():
        if name in plain and _plain(word) in words:
            return plain[name]
    return nearest(word, plain.values())


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")
