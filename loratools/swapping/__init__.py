"""Put adapters into a model in place, and take them out again: byte for byte what it was."""
