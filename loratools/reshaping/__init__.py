"""Verbs that make adapters from adapters."""
