"""Combining alone, without the imports before it: OUT METHOD DENSITY ADAPTER…; prints its seconds.

To rank 16, for a method that takes no density with a DENSITY of «-».
"""

import sys
import time

import torch  # noqa: F401  # its import is what this program leaves out

from loratools.lowrank.ranks import RankRule
from loratools.methods import MethodOptions
from loratools.reshaping.combine import combine
from loratools.reshaping.combined import Combination

output, method, density, *adapters = sys.argv[1:]
options = MethodOptions() if density == "-" else MethodOptions(density=float(density))
start = time.perf_counter()
combine(
    adapters,
    output=output,
    combination=Combination(method=method, options=options),
    rule=RankRule(rank=16),
)
print(time.perf_counter() - start)
