"""Speed and memory, compared with what a user would pick instead: `python -m benchmarks`."""
