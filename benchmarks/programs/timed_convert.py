"""Print the seconds, and the processor's, of one conversion to diffusers' spelling.

    python timed_convert.py TOOL SMALL IN OUT

All imports are done, and SMALL is converted, before the clock starts. From diffusers it takes the
converter alone: its keys are those that a pipeline would load, and alphas that it returns beside
the tensors are left out.
"""

import sys
import time
from pathlib import Path


def by_loratools(file: Path, output: Path) -> None:
    import loratools

    loratools.convert(file, output=output, to="diffusers")


def by_diffusers(file: Path, output: Path) -> None:
    from diffusers.loaders import lora_conversion_utils as converters
    from safetensors.torch import load_file, save_file

    stored = load_file(file)
    if any(key.startswith("lora_transformer_") for key in stored):
        converted = converters._convert_kohya_flux_lora_to_diffusers(stored)
    else:
        converted, _ = converters._convert_non_diffusers_lora_to_diffusers(stored)
    save_file({key: tensor.contiguous() for key, tensor in converted.items()}, output)


def main() -> None:
    tool, small, file, output = sys.argv[1], *map(Path, sys.argv[2:])
    convert = by_loratools if tool == "loratools" else by_diffusers
    convert(small, output.with_name(f"small-{output.name}"))
    began = time.perf_counter(), time.process_time()
    convert(file, output)
    print(time.perf_counter() - began[0], time.process_time() - began[1])


if __name__ == "__main__":
    main()
