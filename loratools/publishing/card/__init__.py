"""The model card: facts about a checkpoint, rendered by a template, put into README.md."""
