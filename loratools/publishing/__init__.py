"""`push` and `pull`: send folders to the Hub and fetch from it, with checks and a model card."""
