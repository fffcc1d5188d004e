"""Codecs that only the tests have: what is written for a kind that is new to kohya's files."""
