"""Time the plan of a merge without imports and print its seconds; takes BASE ADAPTER."""

import sys
import time

import loratools

base, adapter = sys.argv[1:]
merge = loratools.merge  # the package imports lazily: this loads what the plan needs
start = time.perf_counter(), time.process_time()
merge(base, adapter, output=None)
print(time.perf_counter() - start[0], time.process_time() - start[1])
