"""Names of tensors: from an adapter's targets to a base's tensors, and what names tell of both."""
