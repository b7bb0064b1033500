"""Fuzzing of what reads files that strangers make: images and checkpoints. `make fuzz`."""
