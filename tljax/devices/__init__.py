"""Hardware and start-up: device meshes, jobs of several processes, compiling, preemption."""
