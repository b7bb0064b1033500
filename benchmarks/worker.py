"""One measurement in a process of its own; prints it as a line of JSON.

python -m benchmarks.worker FOLDER CONTENDER FUNCTION '{"argument": ...}'
"""

import importlib
import json
import sys
from pathlib import Path

from benchmarks.jobs import JOBS, NETWORKS
from benchmarks.timing import device_megabytes, machine, matmul_peak, peak_megabytes

OF_THE_MACHINE = {"machine": machine, "matmul_peak": matmul_peak}


def main(folder: str, contender: str, function: str, arguments: str) -> None:
    from tljax.devices.compilation_cache import use_compilation_cache

    use_compilation_cache()
    given = json.loads(arguments)
    if function in OF_THE_MACHINE:
        found = OF_THE_MACHINE[function]()
    else:
        module = importlib.import_module(f"benchmarks.contenders.{contender}")
        if "job" in given:
            given["job"] = JOBS[given["job"]]
        if "network" in given:
            given["network"] = NETWORKS[given["network"]]
        found = getattr(module, function)(folder=Path(folder), **given)
        found |= {"peak_megabytes": round(peak_megabytes())} | device_megabytes()
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
