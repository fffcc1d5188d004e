"""The verbs on paths: the only part of loratools that takes them."""
