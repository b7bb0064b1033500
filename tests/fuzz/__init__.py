"""Fuzzing of what reads files that strangers make: images and weights files. `make fuzz`."""
