"""The commands of `tljax`: one module each, with its arguments, its action and what it prints.

A command that computes much is a folder: its `__init__` is the command, its other modules compute.

`tljax.cli` imports every command to build the parser. To answer `--help` and mistyped arguments at
once, a command's own module imports nothing heavy (JAX, NumPy, matplotlib) at its top; `run` does.
"""
