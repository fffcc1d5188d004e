"""Print norms of the stored factors of a LoRA, computed element by element; takes FILE.

Stands in for the weights report of lora-inspector, which is not a package: every factor becomes a
list of Python floats, all lists are kept, and loops over them find the magnitude (the root of the
sum of squares) and the strength (the mean of the absolute values) of each. It computes nothing from
their product.
"""

import math
import sys
from statistics import mean

from safetensors import safe_open


def magnitude(values: list[float]) -> float:
    total = 0.0
    for value in values:
        total += pow(value, 2)
    return math.sqrt(total)


def strength(values: list[float]) -> float:
    total = 0.0
    for value in values:
        total += abs(value)
    return total / len(values)


listed = {}
with safe_open(sys.argv[1], "pt") as file:
    for key in file.keys():  # noqa: SIM118  # it is no mapping
        if key.endswith(".weight"):
            listed[key] = file.get_tensor(key).flatten().tolist()
print(mean(map(magnitude, listed.values())), mean(map(strength, listed.values())))
