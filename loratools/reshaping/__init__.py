"""The verbs that make adapters from adapters: `rescale`, `resize` and `combine`."""
