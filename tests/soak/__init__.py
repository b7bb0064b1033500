"""Compares runs that are killed again and again with uninterrupted runs: `make soak`."""
