"""Runs that are killed, again and again, against runs that nobody kills: `make soak`."""
