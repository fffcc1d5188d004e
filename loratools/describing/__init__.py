"""Verbs that describe adapters by their headers, their factors, and their effect on a base."""
