"""Adapters and bases on disk or on the Hub: found, opened, and written complete or not at all."""
