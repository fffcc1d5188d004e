"""Codecs that only the tests have: what is written for a kind that is new to PEFT's dialect."""
