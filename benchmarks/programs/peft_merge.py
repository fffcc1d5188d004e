"""Merge as PEFT's guide shows, and print the seconds without imports; takes BASE ADAPTER OUT."""

import sys
import time

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, LlamaForCausalLM  # noqa: F401  # loads it now

base, adapter, output = sys.argv[1:]
start = time.perf_counter()
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
model.save_pretrained(output)
print(time.perf_counter() - start)
