"""Time a merge without imports and print its seconds; takes BASE ADAPTER OUT."""

import sys
import time

import torch  # noqa: F401  # its import is what this program leaves out

import loratools

base, adapter, output = sys.argv[1:]
merge = loratools.merge  # the package imports lazily: this loads what the merge needs
start = time.perf_counter()
merge(base, adapter, output=output)
print(time.perf_counter() - start)
