"""`svd-extract` makes an adapter of the difference between a fine-tuned model and its base."""
