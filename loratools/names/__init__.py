"""From an adapter's targets to a base's tensors."""
