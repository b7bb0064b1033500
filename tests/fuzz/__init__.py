"""Fuzzing of the code that reads untrusted files: images and weights files. `make fuzz`."""
