"""`python -m benchmarks`: every measurement, a process each, contenders in turn.

    python -m benchmarks [--only REGEX] [--repeats 3] [--peer_epochs 10] [--output DIR]

Writes `results.json`, the tables of `README.md` and `growth.png`. What `--only` leaves out keeps
its figures of before, as do rows of other machines; the tables name the machine of a row.
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
OURS, TIMM, KERAS = "ours", "torch_timm", "keras_jax"


@dataclass(frozen=True)
class Measurement:
    """What one process measures.

    Attributes:
      name: its row, e.g. `jobs/vit_small/S1`.
      contender: a module of `benchmarks.contenders`.
      function: in it.
      arguments: of the function, JSON.
      label: what the table calls the contender.
      huge_pages: whether a peer's memory comes in huge pages, as that of the `tljax` command does.
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
    """All of them, contenders of a row side by side."""
    for network in jobs.NETWORKS:
        forms = ["plain", "compiled"] + ([] if "vit" in network else ["channels_last"])
        for batch in (2, 4, 8, 16, jobs.BATCH):
            row = f"forward/{network}/{batch}"
            given = {"network": network, "batch": batch}
            yield Measurement(row, OURS, "forward", given)
            for form in forms if batch in (4, jobs.BATCH) else forms[:1]:
                yield Measurement(row, TIMM, "forward", {**given, "form": form}, label_of(form))
            if batch == jobs.BATCH:
                yield Measurement(row, KERAS, "forward", given, "Keras")
        row = f"step/{network}"
        given = {"network": network, "batch": jobs.BATCH, "scenario": "fine_tune"}
        yield Measurement(row, OURS, "step", given)
        for form in forms:
            yield Measurement(row, TIMM, "step", {**given, "form": form}, label_of(form))
        plain = {**given, "form": "plain"}
        yield Measurement(row, TIMM, "step", plain, "timm, huge pages", huge_pages=True)
        yield Measurement(row, KERAS, "step", given, "Keras")
    for workers in (0, 2):
        given = {"batch": jobs.BATCH, "num_workers": workers}
        yield Measurement(f"input/{workers}", OURS, "read", given)
        yield Measurement(f"input/{workers}", TIMM, "read", given, "torchvision")
    yield Measurement("overhead", OURS, "against_minimal", {"network": "vit_small"})
    yield Measurement("warm epoch", OURS, "warm_epoch", {"network": "vit_small", "images": 2000})
    for name, job in jobs.JOBS.items():
        row, epochs = f"jobs/{name}", min(job.epochs, peer_epochs)
        yield Measurement(row, OURS, "job", {"job": name, "epochs": job.epochs})
        given = {"job": name, "epochs": epochs}
        yield Measurement(row, TIMM, "job", given, "timm")
        if job.scenario == "feature_extraction":
            by_hand = {"job": name, "epochs": job.epochs, "by_hand": True}
            yield Measurement(row, TIMM, "job", by_hand, "timm, features by hand")
        yield Measurement(row, KERAS, "job", given, "Keras")
    for images, epochs, k in growth_points():
        given = {"network": "vit_small", "pixels": 98, "images": images, "epochs": epochs, "k": k}
        yield Measurement(f"growth/{images}/{epochs}/{k}", OURS, "growth", given)
    for scenario in ("feature_extraction", "fine_tune"):
        yield Measurement(f"start/{scenario}", OURS, "start", {"scenario": scenario})


def label_of(form: str) -> str:
    return "timm" if form == "plain" else f"timm, {form}"


def growth_points() -> list[tuple[int, int, int]]:
    """(images, epochs, k): one of them varied, from the middle of the others."""
    points = {(images, 4, 10) for images in (64, 128, 256, 512)}
    points |= {(128, epochs, 10) for epochs in (1, 2, 4, 8)}
    points |= {(128, 4, k) for k in (0, 4, 7, 10, 13)}
    return sorted(points)


def compiled_before(one: Measurement) -> Measurement | None:
    """What fills the compilation cache for it; None where compiling is not in what it measures."""
    if one.contender == TIMM or one.function not in ("job", "start"):
        return None
    short = {"epochs": 1, "images": jobs.BATCH} if one.function == "job" else {}
    return replace(one, arguments={**one.arguments, **short})


def measure(one: Measurement, folder: Path, device: str = "cpu") -> dict[str, Any]:
    """Runs it in a process of its own.

    This one never touches the device, of which a process may take all the memory (a GPU's, by
    JAX), or which one process at a time may hold (a TPU).
    """
    command = [sys.executable, "-m", "benchmarks.worker", str(folder), one.contender]
    command += [one.function, json.dumps(one.arguments)]
    # compiled programs and features of the benchmarks, not the user's
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    if device != "cpu":  # which takes fewer bits of a float32 by default; PyTorch's default differs
        environment["JAX_DEFAULT_MATMUL_PRECISION"] = "float32"
    if one.huge_pages or one.contender == OURS:
        environment |= huge_pages.variables_to_set()
    process = subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=HERE.parent
    )
    if process.returncode:
        raise SystemExit(f"{one.name} of {one.label} failed:\n{process.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return whole_job(found, one)


def entry_of(here: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    """This machine's among those that the results are of; it is added if it is a new one."""
    for known in results["machines"]:
        if {name: known[name] for name in here} == here:
            return known
    results["machines"].append(here | {"peak": [], "rows": {}})
    return results["machines"][-1]


def whole_job(found: dict[str, Any], one: Measurement) -> dict[str, Any]:
    """A job of which some epochs were run, with the others taken to last as long as these."""
    job = jobs.JOBS.get(one.arguments.get("job", ""))
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
        "--only", default="", metavar="REGEX", help="what to measure, e.g. 'step/vit.* timm$'"
    )
    parser.add_argument("--repeats", type=int, default=3, help="of each; default: 3")
    parser.add_argument(
        "--peer_epochs",
        type=int,
        default=10,
        help="epochs that peers run of the jobs of ten, the rest being extrapolated; default: 10",
    )
    parser.add_argument("--output", type=Path, default=HERE, metavar="DIR", help="default: here")
    args = parser.parse_args()
    try:
        only = re.compile(args.only)
    except re.error as error:
        parser.error(f"--only '{args.only}' is no regular expression ({error})")
    chosen = [
        one for one in measurements(args.peer_epochs) if only.search(f"{one.name} {one.label}")
    ]
    if not chosen:
        parser.error(f"--only '{args.only}' names nothing; try e.g. 'step/vit.* timm$'")
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--output {args.output} cannot be made ({error.strerror}); give another")
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
        here = entry_of(measure(MACHINE, folder), results)
        rows, device = here["rows"], here["device"]
        here["peak"] = [measure(PEAK, folder, device) for _ in range(args.repeats)]
        for repeat in range(args.repeats):
            for one in chosen:
                if repeat and one.function == "against_minimal":  # pairs enough of its own
                    continue
                bar.update(task, now=f"{one.name}, {one.label}")
                if repeat == 0 and (before := compiled_before(one)) is not None:
                    measure(before, folder, device)
                found = measure(one, folder, device)
                runs = rows.setdefault(one.name, {})
                if repeat == 0:
                    runs[one.label] = []
                runs[one.label].append(found)
                write_atomically(path, json.dumps(results, indent=1) + "\n")
                bar.advance(task)
    write_growth(results, args.output / "growth.png")
    page = args.output / "README.md"
    if not page.exists():
        shutil.copy(HERE / "README.md", page)
    write_tables(results, page)
    console.print(f"wrote {path}")


if __name__ == "__main__":
    main()
