"""The model card of what is published."""
