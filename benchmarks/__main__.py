"""`python -m benchmarks`: runs every measurement in its own process, contenders in turn.

    python -m benchmarks [--only REGEX] [--repeats 3] [--peer_epochs 10] [--output DIR]

Writes `results.json`, the tables of `README.md` and `growth.png`. Rows that `--only` leaves out
keep their earlier figures, and so do rows of other machines; the tables name each row's machine.
Needs the extra `parity`.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.progress import TextColumn

from benchmarks import jobs
from benchmarks.tables import write_growth, write_tables
from tljax.devices import huge_pages
from tljax.runs.workdir import write_atomically
from tljax.training.progress import console, progress_bar

HERE = Path(__file__).parent
ON_A_GPU = "half step"  # rows that are measured on a GPU alone
OURS, TIMM, KERAS, SKLEARN = "ours", "torch_timm", "keras_jax", "scikit_learn"


@dataclass(frozen=True)
class Measurement:
    """What one process measures.

    Attributes:
      name: the row of the results, e.g. `jobs/vit_small/S1`.
      contender: a module of `benchmarks.contenders`.
      function: the name of a function of that module.
      arguments: the function's keyword arguments, in values that JSON has.
      label: the contender's name in the table.
      huge_pages: whether a peer uses huge pages, as the `tljax` command does.
    """

    name: str
    contender: str
    function: str
    arguments: dict[str, Any] = field(default_factory=dict)
    label: str = "tljax"
    huge_pages: bool = False


MACHINE = Measurement("machine", OURS, "machine")
PEAK = Measurement("peak", OURS, "matmul_peak")


def measurements(peer_epochs: int) -> Iterator[Measurement]:
    """All measurements; the contenders of a row follow each other."""
    for network in jobs.NETWORKS:
        forms = ["plain", "compiled"] + ([] if "vit" in network else ["channels_last"])
        for batch in (2, 4, 8, 16, jobs.BATCH):
            row = f"forward/{network}/{batch}"
            arguments = {"network": network, "batch": batch}
            yield Measurement(row, OURS, "forward", arguments)
            for form in forms if batch in (4, jobs.BATCH) else forms[:1]:
                yield Measurement(
                    row, TIMM, "forward", {**arguments, "form": form}, form_label(form)
                )
            if batch == jobs.BATCH:
                yield Measurement(row, KERAS, "forward", arguments, "Keras")
        row = f"step/{network}"
        arguments = {"network": network, "batch": jobs.BATCH, "scenario": "fine_tune"}
        yield Measurement(row, OURS, "step", arguments)
        for form in forms:
            yield Measurement(row, TIMM, "step", {**arguments, "form": form}, form_label(form))
        plain = {**arguments, "form": "plain"}
        yield Measurement(row, TIMM, "step", plain, "timm, huge pages", huge_pages=True)
        yield Measurement(row, KERAS, "step", arguments, "Keras")
    for network in jobs.FURTHER:
        arguments = {"network": network, "batch": jobs.BATCH}
        for function, more in (("forward", {}), ("step", {"scenario": "fine_tune"})):
            row = f"{function}/{network}" + ("" if more else f"/{jobs.BATCH}")
            yield Measurement(row, OURS, function, arguments | more)
            yield Measurement(row, TIMM, function, arguments | more | {"form": "plain"}, "timm")
    for network in jobs.HALF:
        row, arguments = f"{ON_A_GPU}/{network}", {"network": network}
        yield Measurement(row, OURS, "half_step", arguments)
        yield Measurement(row, TIMM, "half_step", arguments, "timm")
    for workers in (0, 2):
        arguments = {"batch": jobs.BATCH, "num_workers": workers}
        yield Measurement(f"input/{workers}", OURS, "read", arguments)
        yield Measurement(f"input/{workers}", TIMM, "read", arguments, "torchvision")
    yield Measurement("overhead", OURS, "compare_with_minimal", {"network": "vit_small"})
    yield Measurement("warm epoch", OURS, "warm_epoch", {"network": "vit_small", "images": 2000})
    for name, job in jobs.JOBS.items():
        row, epochs = f"jobs/{name}", min(job.epochs, peer_epochs)
        yield Measurement(row, OURS, "job", {"job": name, "epochs": job.epochs})
        arguments = {"job": name, "epochs": epochs}
        yield Measurement(row, TIMM, "job", arguments, "timm")
        if job.scenario == "feature_extraction":
            by_hand = {"job": name, "epochs": job.epochs, "by_hand": True}
            yield Measurement(row, TIMM, "job", by_hand, "timm, features by hand")
        yield Measurement(row, KERAS, "job", arguments, "Keras")
    for sizes in jobs.HEADS:
        arguments = dict(zip(("width", "rows", "outputs", "kind"), sizes, strict=True))
        row = jobs.head_row(*sizes)
        yield Measurement(row, OURS, "head", arguments)
        yield Measurement(row, SKLEARN, "head", arguments, "scikit-learn")
    for images, epochs, k in growth_points():
        arguments = {
            "network": "vit_small",
            "pixels": 98,
            "images": images,
            "epochs": epochs,
            "k": k,
        }
        yield Measurement(f"growth/{images}/{epochs}/{k}", OURS, "growth", arguments)
    for scenario in ("feature_extraction", "fine_tune"):
        yield Measurement(f"start/{scenario}", OURS, "start", {"scenario": scenario})


def form_label(form: str) -> str:
    """timm's label in the table, for a `form` of contenders/torch_timm.py."""
    return "timm" if form == "plain" else f"timm, {form}"


def growth_points() -> list[tuple[int, int, int]]:
    """(images, epochs, k): one of them varies, the other two have a middle value."""
    points = {(images, 4, 10) for images in (64, 128, 256, 512)}
    points |= {(128, epochs, 10) for epochs in (1, 2, 4, 8)}
    points |= {(128, 4, k) for k in (0, 4, 7, 10, 13)}
    return sorted(points)


def warm_up_for(measurement: Measurement) -> Measurement | None:
    """A short measurement that fills the compilation cache; None where compiling is not timed."""
    if measurement.contender == TIMM or measurement.function not in ("job", "start"):
        return None
    short = {"epochs": 1, "images": jobs.BATCH} if measurement.function == "job" else {}
    return replace(measurement, arguments={**measurement.arguments, **short})


def measure(measurement: Measurement, folder: Path, device: str = "cpu") -> dict[str, Any]:
    """Runs a measurement in a process of its own.

    This process never touches the device: JAX takes all of a GPU's memory, and a TPU belongs to one
    process at a time.
    """
    command = [sys.executable, "-m", "benchmarks.worker", str(folder), measurement.contender]
    command += [measurement.function, json.dumps(measurement.arguments)]
    # compiled programs and cached features are the benchmarks' own, not the user's
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    if device != "cpu":  # JAX's default there multiplies float32 in fewer bits, PyTorch's does not
        environment["JAX_DEFAULT_MATMUL_PRECISION"] = "float32"
    if measurement.huge_pages or measurement.contender == OURS:
        environment |= huge_pages.variables_to_set()
    process = subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=HERE.parent
    )
    if process.returncode:
        raise SystemExit(
            f"{measurement.name} of {measurement.label} failed:\n{process.stderr[-2000:]}"
        )
    found: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return extrapolate(found, measurement)


def find_or_add_machine(here: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    """This machine's entry in the results; a new machine is added."""
    for known in results["machines"]:
        if {name: known[name] for name in here} == here:
            return known
    results["machines"].append(here | {"peak": [], "rows": {}})
    return results["machines"][-1]


def extrapolate(found: dict[str, Any], measurement: Measurement) -> dict[str, Any]:
    """Adds the epochs of a job that were not run, each as long as the median later epoch."""
    job = jobs.JOBS.get(measurement.arguments.get("job", ""))
    if job is not None and found["epochs"] < job.epochs and "epoch_seconds" in found:
        later = statistics.median(found["epoch_seconds"][1:] or found["epoch_seconds"])
        found["measured_epochs"] = found["epochs"]
        found["seconds"] += (job.epochs - found["epochs"]) * later
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument(
        "--only", default="", metavar="REGEX", help="the rows to measure, e.g. 'step/vit.* timm$'"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="runs of each measurement; default: 3"
    )
    parser.add_argument(
        "--peer_epochs",
        type=int,
        default=10,
        help="epochs that peers run of jobs of ten; the others are extrapolated; default: 10",
    )
    parser.add_argument("--output", type=Path, default=HERE, metavar="DIR", help="default: here")
    args = parser.parse_args()
    try:
        only = re.compile(args.only)
    except re.error as error:
        parser.error(f"--only '{args.only}' is not a regular expression ({error})")
    chosen = [
        measurement
        for measurement in measurements(args.peer_epochs)
        if only.search(f"{measurement.name} {measurement.label}")
    ]
    if not chosen:
        parser.error(f"--only '{args.only}' matches no measurement; try e.g. 'step/vit.* timm$'")
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(
            f"--output {args.output} cannot be created ({error.strerror}); choose another directory"
        )
    path = args.output / "results.json"
    results: dict[str, Any] = {"machines": []}
    if path.exists():
        results = json.loads(path.read_text())
    with (
        tempfile.TemporaryDirectory() as temporary,
        progress_bar(TextColumn("{task.fields[now]}")) as bar,
    ):
        folder = Path(os.environ.get("TLJAX_BENCHMARK_FOLDER", temporary))
        task = bar.add_task("measuring", total=len(chosen) * args.repeats, now="matrix products")
        here = find_or_add_machine(measure(MACHINE, folder), results)
        rows, device = here["rows"], here["device"]
        if device == "cpu":
            chosen = [m for m in chosen if not m.name.startswith(ON_A_GPU)]
            bar.update(task, total=len(chosen) * args.repeats)
        here["peak"] = [measure(PEAK, folder, device) for _ in range(args.repeats)]
        for repeat in range(args.repeats):
            for measurement in chosen:
                if repeat and measurement.function == "compare_with_minimal":
                    continue  # it has repeats of its own
                bar.update(task, now=f"{measurement.name}, {measurement.label}")
                if repeat == 0 and (before := warm_up_for(measurement)) is not None:
                    measure(before, folder, device)
                found = measure(measurement, folder, device)
                runs = rows.setdefault(measurement.name, {})
                if repeat == 0:
                    runs[measurement.label] = []
                runs[measurement.label].append(found)
                write_atomically(path, json.dumps(results, indent=1) + "\n")
                bar.advance(task)
    write_growth(results, args.output / "growth.png")
    readme = args.output / "README.md"
    if not readme.exists():
        shutil.copy(HERE / "README.md", readme)
    write_tables(results, readme)
    console.print(f"wrote {path}")


if __name__ == "__main__":
    main()
