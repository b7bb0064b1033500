"""The machine: devices, several processes, compiling, and what makes a start fast."""
