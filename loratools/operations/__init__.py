"""The verbs, as functions of values: one file each."""
