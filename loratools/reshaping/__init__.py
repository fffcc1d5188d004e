"""`rescale`, `resize` and `combine`: adapters made of adapters."""
