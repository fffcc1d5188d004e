"""What other programs call our commands, functions, options, attributes and values.

Each table has our names, and the words for each; `nearest.ours` looks a word up. The first name
that the command or the function in question has counts. Case and the sort of dash do not.
"""

from typing import Final

#: Commands and functions, and what people look for: `load` opens an adapter in Python, where there
#: is a function for that.
COMMANDS: Final = {
    "open-adapter": (
        "open", "load", "read", "load-adapter", "read-adapter", "from-pretrained", "load-lora",
        "load-lora-weights", "load-file", "safe-open", "peftmodel",
    ),
    "adapter-from-tensors": ("from-tensors", "from-state-dict", "make-adapter", "create-adapter"),
    "inspect": (
        "info", "show", "describe", "view", "list", "ls", "stats", "check", "print", "verify",
    ),
    "merge": ("apply", "fuse", "bake", "load", "merge-and-unload"),
    "svd-extract": ("extract", "diff", "distill", "subtract"),
    "combine": ("mix", "blend", "add", "sum", "average", "concat", "cat", "merge-adapters"),
    "resize": ("prune", "shrink", "truncate", "compress", "reduce", "rank"),
    "rescale": ("scale", "weight", "alpha", "strength", "repair", "fix"),
    "convert": (
        "export", "translate", "save", "save-adapter", "save-pretrained", "to", "to-kohya",
        "to-peft", "to-diffusers",
    ),
    "pull": ("download", "get", "fetch", "clone"),
    "push": ("upload", "publish", "push-to-hub"),
    "swap": ("switch", "replace", "unload", "unmerge", "unfuse", "remove", "undo", "restore"),
    "LoratoolsError": ("error", "exception"),
}  # fmt: skip
#: Arguments, by their names in Python, and options, in short and long forms.
ARGUMENTS: Final = {
    "rank": ("r", "k", "dim", "new-rank", "lora-rank", "network-dim"),
    "strength": (
        "w", "weight", "scale", "scaling", "scale-factor", "factor", "multiplier", "ratio",
        "lora-scale",
    ),
    "weights": (
        "strength", "scale", "scaling", "factor", "multiplier", "ratio", "alphas", "lora-scale",
    ),
    "block-weights": ("lbw", "lbws"),
    "method": ("combination-type", "merge-method", "how", "mode", "strategy"),
    "output": (
        "o", "out", "file", "dest", "save-to", "output-dir", "out-dir", "local-dir",
        "save-directory",
    ),
    "overwrite": ("f", "y", "yes", "force", "exist-ok", "replace", "clobber"),
    "dry-run": ("n", "simulate", "check"),
    "jobs": ("j", "threads", "workers", "num-workers", "num-threads", "max-workers", "num-proc"),
    "progress": ("verbose", "tqdm", "bar", "callback"),
    "only": ("include", "target-modules", "targets", "modules", "layers", "filter"),
    "skip": ("exclude", "exclude-modules", "ignore", "drop"),
    "drop": ("exclude", "skip", "ignore", "remove"),
    "to": ("t", "format", "target", "target-format"),
    "dtype": ("precision", "type", "outtype", "torch-dtype", "save-precision"),
    "device": ("cuda", "gpu"),
    "seed": ("random-state", "rng", "generator"),
    "size": ("max-size", "nbytes"),
    "energy": ("variance", "explained-variance", "keep", "threshold"),
    "error": ("tolerance", "tol"),
    "tuned": ("model", "finetuned", "fine-tuned", "model-tuned", "target", "merged", "trained"),
    "base": ("model", "base-model", "checkpoint", "sd-model"),
    "model": ("base", "base-model", "checkpoint"),
    "adapter": ("i", "input", "adapters", "path", "folder", "file", "lora", "model"),
    "adapters": ("i", "in", "input", "adapter", "path", "paths", "lora", "loras"),
    "path": ("folder", "file", "adapter"),
    "tensors": ("state-dict", "weights"),
    "config": ("peft-config", "lora-config"),
    "name": ("repo", "repo-id"),
    "repo": ("name", "repo-id"),
}  # fmt: skip
#: Values: dtypes, methods, and formats by the programs that write or read them.
VALUES: Final = {
    "float16": ("fp16", "f16", "half"),
    "bfloat16": ("bf16",),
    "float32": ("fp32", "f32", "float", "full"),
    "float64": ("fp64", "f64", "double"),
    "linear": ("lerp", "sum", "add", "cat", "task-arithmetic"),
    "dare_ties": ("dare",),
    "kohya": (
        "a1111", "automatic1111", "webui", "sd-webui", "forge", "civitai", "kohya-ss", "sd-scripts",
    ),
    "comfyui": ("comfy", "comfy-ui", "ai-toolkit", "onetrainer"),
    "mlx": ("mlx-lm", "mlx-vlm"),
    "peft": ("hf", "huggingface", "transformers", "vllm"),
}  # fmt: skip
#: Attributes of a target.
OF_A_TARGET: Final = {
    "up": ("lora_up", "lora_B", "B", "up_weight"),
    "down": ("lora_down", "lora_A", "A", "down_weight"),
    "update()": (
        "delta_weight", "get_delta_weight", "dW", "deltaW", "delta_w", "diff", "weight", "data",
        "tensor", "matrix", "dense", "to_dense", "numpy", "full", "to", "cpu", "cuda", "half",
        "float", "dtype", "device",
    ),
    "singular_values()": (
        "svd", "svdvals", "S", "sigma", "spectrum", "singular", "spectral_norm", "effective_rank",
        "stable_rank",
    ),
    "norm()": ("frobenius", "frobenius_norm", "fro", "magnitude"),
    "alpha": ("lora_alpha", "network_alpha", "alphas"),
    "rank": ("r", "dim", "lora_dim", "network_dim", "ranks"),
    "scaling": ("scale", "multiplier", "strength", "scalings"),
    "shape": ("size",),
    "parameters": ("numel", "num_parameters", "nelement"),
}  # fmt: skip
#: Attributes of an adapter; what its targets have is told apart.
OF_AN_ADAPTER: Final = {
    "list(adapter)": ("targets", "target_modules", "modules", "layers", "names"),
    "dict(adapter)": ("state_dict", "tensors", "weights", "named_parameters"),
    "where": ("name", "path", "filename", "file", "folder"),
    "provenance": ("base", "base_model", "base_model_name_or_path", "task_type"),
    "filed": ("config", "peft_config", "lora_config", "metadata"),
    "nbytes": ("size",),
    "kinds": ("kind", "type", "peft_type"),
    "save()": ("save_pretrained", "save_file", "write", "to_file"),
}
#: What is looked for in a report, and where it is: in the first of these that the report has.
IN_A_REPORT: Final = {
    "certificates.total": ("energy", "error", "relative_error", "kept", "lost", "loss"),
    "total": ("energy", "error", "relative_error", "cosine", "kept", "lost", "loss"),
    "certificates.truncations": ("targets", "layers", "modules", "ranks", "rank"),
    "truncations": ("targets", "layers", "modules", "ranks", "rank"),
    "fidelity": ("targets", "layers", "modules", "weights", "changes", "tensors"),
    "groups": ("ranks", "rank", "alphas", "alpha", "shapes", "shape"),
    "adapter": ("targets", "layers", "modules", "kind", "kinds"),
    "inspection": ("adapter", "targets", "layers", "modules", "parameters", "faults", "notes"),
    "faults()": ("problems", "issues", "errors"),
    "notes": ("problems", "issues", "note", "messages"),
    "rows": ("problems", "issues", "errors", "verdicts", "results"),
    "is_sound": ("ok", "sound", "valid", "passed", "check"),
    "written": ("output", "path", "size", "bytes", "nbytes"),
    "output": ("path", "written", "folder"),
    "to_json()": ("to_dict", "as_dict", "asdict", "dict", "json", "to_df", "to_pandas"),
    "print(report)": ("summary", "table", "show", "describe", "text"),
}
