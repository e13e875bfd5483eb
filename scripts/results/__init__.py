"""Finished runs: finding them, comparing them, writing their tables."""
