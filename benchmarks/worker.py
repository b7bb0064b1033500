"""Runs one measurement and prints its result as a line of JSON.

python -m benchmarks.worker FOLDER CONTENDER FUNCTION '{"argument": ...}'
"""

import importlib
import json
import sys
from pathlib import Path

from benchmarks.jobs import ALL_NETWORKS, JOBS
from benchmarks.timing import device_megabytes, machine, matmul_peak, peak_megabytes

MACHINE_FUNCTIONS = {"machine": machine, "matmul_peak": matmul_peak}


def main(folder: str, contender: str, function: str, arguments: str) -> None:
    from tljax.devices.compilation_cache import use_compilation_cache

    use_compilation_cache()
    kwargs = json.loads(arguments)
    if function in MACHINE_FUNCTIONS:
        found = MACHINE_FUNCTIONS[function]()
    else:
        module = importlib.import_module(f"benchmarks.contenders.{contender}")
        if "job" in kwargs:
            kwargs["job"] = JOBS[kwargs["job"]]
        if "network" in kwargs:
            kwargs["network"] = ALL_NETWORKS[kwargs["network"]]
        found = getattr(module, function)(folder=Path(folder), **kwargs)
        found |= {"peak_megabytes": round(peak_megabytes())} | device_megabytes()
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
