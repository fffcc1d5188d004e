"""Time combining to rank 16, without imports; takes OUT METHOD DENSITY ADAPTER….

Prints the seconds. DENSITY is «-» for a method that takes no density.
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
