"""Combine adapters as PEFT's guide shows; takes BASE OUT TYPE DENSITY ADAPTER….

Prints the seconds of `add_weighted_adapter` alone: without imports, loading and saving.
"""

import sys
import time

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

base, output, kind, density, *adapters = sys.argv[1:]
torch.manual_seed(0)
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
names = [f"adapter{number}" for number in range(len(adapters))]
model = PeftModel.from_pretrained(model, adapters[0], adapter_name=names[0])
for adapter, name in zip(adapters[1:], names[1:], strict=True):
    model.load_adapter(adapter, adapter_name=name)
start = time.perf_counter()
model.add_weighted_adapter(
    names,
    [1.0] * len(names),
    "combined",
    combination_type=kind,
    svd_rank=16,
    svd_full_matrices=False,
    density=None if density == "-" else float(density),
)
seconds = time.perf_counter() - start
model.save_pretrained(output, selected_adapters=["combined"])
print(seconds)
