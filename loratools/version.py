"""The version of loratools, by itself so that nothing needs the whole package for it."""

__version__ = "0.1.0"
