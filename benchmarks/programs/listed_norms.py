"""Norms of the stored factors of a LoRA, element by element in Python: FILE.

Stands in for the weights report of lora-inspector, which is not a package: every factor becomes a
list of Python floats, all lists are kept, and each gets its magnitude (the root of the sum of
squares) and its strength (the mean of the absolute values). It does not look at the product.
"""

import math
import sys
from statistics import mean

from safetensors import safe_open

listed = {}
with safe_open(sys.argv[1], "pt") as file:
    for key in file.keys():  # noqa: SIM118  # it is no mapping
        if key.endswith(".weight"):
            listed[key] = file.get_tensor(key).flatten().tolist()
magnitudes = [math.sqrt(sum(value * value for value in values)) for values in listed.values()]
strengths = [sum(map(abs, values)) / len(values) for values in listed.values()]
print(mean(magnitudes), mean(strengths))
