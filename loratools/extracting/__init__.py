"""`svd-extract`: an adapter made of a fine-tuned model and its base."""
