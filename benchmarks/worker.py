"""One measurement in a process of its own; prints it as a line of JSON.

python -m benchmarks.worker FOLDER CONTENDER FUNCTION '{"argument": ...}'
"""

import importlib
import json
import sys
from pathlib import Path

from benchmarks.jobs import JOBS, NETWORKS
from benchmarks.timing import matmul_peak, peak_megabytes


def main(folder: str, contender: str, function: str, arguments: str) -> None:
    from tljax.cli import use_compilation_cache

    use_compilation_cache()
    multiply_in_float32()
    given = json.loads(arguments)
    if function == "matmul_peak":
        found = matmul_peak()
    else:
        module = importlib.import_module(f"benchmarks.contenders.{contender}")
        if "job" in given:
            given["job"] = JOBS[given["job"]]
        if "network" in given:
            given["network"] = NETWORKS[given["network"]]
        found = getattr(module, function)(folder=Path(folder), **given)
    print(json.dumps({**found, "peak_megabytes": round(peak_megabytes())}))


def multiply_in_float32() -> None:
    """GPUs and TPUs take fewer bits of a float32 by default, and PyTorch's default is another."""
    import jax

    if jax.default_backend() != "cpu":
        jax.config.update("jax_default_matmul_precision", "float32")


if __name__ == "__main__":
    main(*sys.argv[1:])
