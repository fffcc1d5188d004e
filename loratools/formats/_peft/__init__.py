"""What the dialects share that store updates as PEFT does: parts of modules, and a config.

PEFT keeps the config in a file of its own, and diffusers keeps one for each component of a pipeline
in the metadata. `kinds/` has a codec for each kind of update; configs and their patterns are read
and written here, whatever file they are in.
"""
