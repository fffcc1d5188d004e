"""Codecs for the tests' own kinds, written as for a kind that is new to PEFT's dialect."""
