"""Bytes and tensors, knowing nothing of adapters."""
