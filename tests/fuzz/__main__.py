"""Coverage-guided fuzzing with atheris (the `fuzz` extra).

    python -m tests.fuzz TARGET [--inputs N] [--minutes M] [--found DIR]

TARGET is image, .safetensors, .npz or .h5; a JSON file in the folder of weights or in a workdir:
preprocessing, index, metrics, config; names, those of the tensors of a file; table, a CSV
file, or choices, one that stands below a line of choices.
Prints libFuzzer's progress, then how many inputs were read and refused. Any other outcome is an
error: it ends the campaign, and the input is saved in DIR. .h5 is fuzzed without coverage, since
HDF5 is a C library. Each .h5 input is read in its own process, as weights files are; the output
counts the processes that crashed.
"""

import argparse
import atexit
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["PIL", "tljax.data.images", "tljax.weights.read"]):
    import numpy as np

    from tests.fuzz import seeds, targets
    from tests.fuzz.mutate import mutated, with_checksums
    from tljax.weights import hdf5

from tljax.training.progress import progress_bar

_LARGEST = {"names": 16_384}  # bytes of an input; others: 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=tuple(targets.TARGETS))
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument(
        "--found", type=Path, default=Path("build/fuzz"), help="for inputs that fail"
    )
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.found.mkdir(parents=True, exist_ok=True)
    files = seeds.of(args.target)
    if args.target == ".h5":
        in_processes(files, args.inputs, args.minutes, args.seed)
        return
    corpus = tempfile.mkdtemp()
    for number, content in enumerate(files):
        (Path(corpus) / str(number)).write_bytes(content)

    outcomes, began = Counter(), time.monotonic()

    def try_one(data: bytes) -> None:
        outcomes[targets.outcome(args.target, data)] += 1

    def mutate(data: bytes, largest: int, seed: int) -> bytes:
        rng = np.random.default_rng(seed)
        if rng.random() < 0.75:  # mostly from a valid file: damaged ones find less
            other = files[rng.integers(len(files))]
            base = data if rng.random() < 0.3 else files[rng.integers(len(files))]
            return mutated(base, other, rng)[:largest]
        return with_checksums(atheris.Mutate(data, largest))[:largest]

    @atexit.register
    def report() -> None:
        print(f"{args.target}: {dict(outcomes)} in {time.monotonic() - began:.0f} s", flush=True)

    options = [
        f"-atheris_runs={args.inputs}",
        f"-max_total_time={60 * args.minutes:.0f}",
        f"-max_len={_LARGEST.get(args.target, 4096)}",
        f"-seed={args.seed}",
        f"-artifact_prefix={args.found}/",
        *("-timeout=20", "-rss_limit_mb=3000"),
    ]
    atheris.Setup([sys.argv[0], *options, corpus], try_one, custom_mutator=mutate)
    atheris.Fuzz()


def in_processes(files: list[bytes], inputs: int, minutes: float, seed: int) -> None:
    """Mutated HDF5 files, each read by a fork of this process under the limits of `hdf5`."""
    import h5py  # noqa: F401  (imported once, not in every fork)

    rng, outcomes, began = np.random.default_rng(seed), Counter(), time.monotonic()
    with tempfile.TemporaryDirectory(dir=targets.memory()) as folder, progress_bar() as bar:
        source, copy = Path(folder) / "source.h5", Path(folder) / "copy.safetensors"
        for _ in bar.track(range(inputs), description="reading"):
            if time.monotonic() - began > 60 * minutes:
                break
            base, other = (files[rng.integers(len(files))] for _ in range(2))
            source.write_bytes(mutated(base, other, rng))
            child = os.fork()
            if child == 0:
                try:
                    hdf5.copy(str(source), str(copy))
                    os._exit(0)
                except Exception:
                    os._exit(1)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            outcomes[{0: "read", 1: "refused"}.get(code, "broke down")] += 1
    print(f".h5: {dict(outcomes)} in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
