"""Makes the tables of README.md and the figure growth.png from the results."""

import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import jobs

Runs = dict[str, list[dict[str, Any]]]  # the runs of a row, by the contender's label
_OURS = "tljax"
_EMPTY = "Not measured yet."


def write_tables(results: dict[str, Any], readme: Path) -> None:
    """Writes each table between its two marks in README.md."""
    text = readme.read_text()
    for name, make in _TABLES.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        pattern = re.escape(begin) + r".*?" + re.escape(end)
        table = "\n".join([begin, "", *make(results), "", end])
        text = re.sub(pattern, lambda _, table=table: table, text, flags=re.DOTALL)
    readme.write_text(text)


def write_growth(results: dict[str, Any], path: Path) -> None:
    """Plots seconds by images, epochs and k, a colour a machine: dots, and lines of the law."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    points = _growth(results)
    if not points:
        return
    machines = sorted({p["machine"] for p in points})
    middle = {"images": 128, "epochs": 4, "k": 10}
    figure, panels = plt.subplots(1, 3, figsize=(10, 3.2), sharey=True, layout="constrained")
    for axes, varied in zip(panels, middle, strict=True):
        chosen = sorted(
            (p for p in points if all(p[o] == v for o, v in middle.items() if o != varied)),
            key=lambda p: p[varied],
        )
        for number, machine in enumerate(machines):
            own = [p for p in chosen if p["machine"] == machine]
            x = [p[varied] for p in own]
            color = f"C{number}"
            axes.plot(x, [p["law"] for p in own], color=color, alpha=0.4)
            axes.plot(x, [p["seconds"] for p in own], "o", color=color, label=machine)
        axes.set_xlabel({"k": "k, groups frozen"}.get(varied, varied))
        axes.set_xticks(sorted({p[varied] for p in chosen}))
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("seconds")
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _machines(results: dict[str, Any]) -> list[str]:
    body = []
    for number, machine in enumerate(results["machines"]):
        versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        gigaflops = _median(machine["peak"], "flops_per_second") / 1e9
        body.append(
            [
                _letter(number),
                _processor(machine),
                str(machine["cores"]),
                f"{machine['devices']} x {machine['device']}",
                f"{gigaflops:,.0f} GFLOP/s",
                versions,
            ]
        )
    head = ["machine", "processor", "cores", "JAX on", "fastest float32 matrix product", "versions"]
    return _table(head, body)


def _jobs(results: dict[str, Any]) -> list[str]:
    labels = (_OURS, "timm", "timm, features by hand", "Keras")
    head = ["job", "machine", *(f"{label}, s" for label in labels)]
    head += [f"{label} / tljax" for label in labels[1:]]
    head += ["peak MB: tljax, timm, Keras"]
    body = []
    for name in jobs.JOBS:
        for row, machine in _rows(results, f"jobs/{name}"):
            cells = [name.replace("/", " "), machine]
            cells += [_seconds(row.get(label)) for label in labels]
            cells += [_ratio(row.get(label), row[_OURS]) for label in labels[1:]]
            peaks = [
                f"{statistics.median(map(_megabytes, row[o])):,.0f}"
                for o in (_OURS, "timm", "Keras")
                if row.get(o)
            ]
            body.append([*cells, ", ".join(peaks)])
    return _table(head, body)


def _forward(results: dict[str, Any]) -> list[str]:
    labels = (_OURS, "timm", "timm, compiled", "timm, channels_last", "Keras")
    head = ["network", "batch", "machine", *labels, "tljax / timm", "share of peak"]
    body = []
    for network in (*jobs.NETWORKS, *jobs.FURTHER):
        for batch in (2, 4, 8, 16, jobs.BATCH):
            for row, machine in _rows(results, f"forward/{network}/{batch}"):
                cells = [network, str(batch), machine]
                cells += [_rate(row.get(label), batch) for label in labels]
                cells.append(_ratio(row.get("timm"), row[_OURS]))
                cells.append(f"{_median(row[_OURS], 'share_of_peak'):.0%}")
                body.append(cells)
    return _table(head, body)


def _steps(results: dict[str, Any]) -> list[str]:
    labels = (_OURS, "timm", "timm, compiled", "timm, channels_last", "timm, huge pages", "Keras")
    body = []
    for network in (*jobs.NETWORKS, *jobs.FURTHER):
        for row, machine in _rows(results, f"step/{network}"):
            cells = [_rate(row.get(label), jobs.BATCH) for label in labels]
            body.append([network, machine, *cells, _ratio(row.get("timm"), row[_OURS])])
    return _table(["network", "machine", *labels, "tljax / timm"], body)


def _half_steps(results: dict[str, Any]) -> list[str]:
    """Images a second in bfloat16, at the largest batch that fits, and the share of the peak."""
    body = []
    for network in jobs.HALF:
        for row, machine in _rows(results, f"half step/{network}"):
            cells = [network, machine]
            for label in (_OURS, "timm"):
                runs = row.get(label)
                cells += (
                    ["", ""]
                    if not runs
                    else [
                        _short(_median(runs, "images_per_second")),
                        f"{_median(runs, 'batch'):.0f}",
                    ]
                )
            cells.append(f"{_median(row[_OURS], 'share_of_peak'):.0%}")
            body.append(cells)
    head = ["network", "machine", "tljax", "its batch", "timm", "its batch", "share of peak"]
    return _table(head, body)


def _heads(results: dict[str, Any]) -> list[str]:
    peer = "scikit-learn"
    head = ["features", "rows", "outputs", "machine", "tljax, s", "with compiling, s", f"{peer}, s"]
    head += [f"{peer} / tljax", "with compiling", "in processor seconds"]
    body = []
    words = {"classes": "classes", "multi_label": "labels", "regression": "numbers"}
    for width, count, outputs, kind in jobs.HEADS:
        for row, machine in _rows(results, jobs.head_row(width, count, outputs, kind)):
            ours, theirs = row[_OURS], row.get(peer)
            cells = [f"{width:,}", f"{count:,}", f"{outputs} {words[kind]}", machine]
            cells.append(_seconds(ours))
            cells += [_short(_median(ours, "first_seconds")), _seconds(theirs)]
            names = (("seconds",) * 2, ("seconds", "first_seconds"), ("processor_seconds",) * 2)
            cells += [
                f"{_median(theirs, a) / _median(ours, b):.2f}" if theirs else "" for a, b in names
            ]
            body.append(cells)
    return _table(head, body)


def _input(results: dict[str, Any]) -> list[str]:
    labels = (_OURS, "torchvision")
    body = []
    for workers in (0, 2):
        for row, machine in _rows(results, f"input/{workers}"):
            cells = [_rate(row.get(label), jobs.BATCH) for label in labels]
            ratio = _ratio(row.get("torchvision"), row[_OURS])
            body.append([str(workers), machine, *cells, ratio])
    return _table(["num_workers", "machine", *labels, "tljax / torchvision"], body)


def _single(results: dict[str, Any]) -> list[str]:
    body = []
    for overhead, machine in _rows(results, "overhead"):
        for name, value in overhead[_OURS][0].items():
            if not name.endswith("_megabytes"):
                words = f"tljax's step / a minimal JAX step, {name}"
                body.append([words, machine, f"{value:.3f}"])
    seconds = {"warm epoch": "an epoch of S1 over 2,000 images from a warm cache"}
    for scenario in ("feature_extraction", "fine_tune"):
        words = f"`tljax train` to its first step, {scenario}, warm compilation cache"
        seconds[f"start/{scenario}"] = words
    for name, words in seconds.items():
        for row, machine in _rows(results, name):
            body.append([words, machine, _seconds(row[_OURS]) + " s"])
    return _table(["measured", "machine", "median (least to most)"], body)


def _growth_table(results: dict[str, Any]) -> list[str]:
    body = [
        [
            str(p["images"]),
            str(p["epochs"]),
            str(p["k"]),
            p["machine"],
            f"{p['seconds']:.1f}",
            f"{p['law']:.1f}",
            f"{p['seconds'] / p['law']:.2f}",
        ]
        for p in _growth(results)
    ]
    return _table(["images", "epochs", "k", "machine", "seconds", "law", "ratio"], body)


_TABLES: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "machines": _machines,
    "jobs": _jobs,
    "forward": _forward,
    "steps": _steps,
    "half steps": _half_steps,
    "heads": _heads,
    "input": _input,
    "single figures": _single,
    "growth": _growth_table,
}


def _growth(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The points, machine by machine, each with its seconds and those of the law.

    The law counts forward passes. Each takes the median time of all those measured with that
    machine's points, because a single one may fall into a slow moment of a shared machine.
    """
    by_machine: dict[str, dict[tuple[int, ...], list[dict[str, Any]]]] = {}
    for name in sorted({name for machine in results["machines"] for name in machine["rows"]}):
        if name.startswith("growth/"):
            varied = tuple(map(int, name.split("/")[1:]))
            for row, machine in _rows(results, name):
                by_machine.setdefault(machine, {})[varied] = row[_OURS]
    found = []
    for machine, points in sorted(by_machine.items()):
        forward = _median((run for runs in points.values() for run in runs), "forward_seconds")
        found += [
            dict(zip(("images", "epochs", "k"), varied, strict=True))
            | {"machine": machine, "seconds": _median(runs)}
            | {"law": _median(runs, "forwards") * forward}
            for varied, runs in sorted(points.items())
        ]
    return found


def _rows(results: dict[str, Any], name: str) -> Iterator[tuple[Runs, str]]:
    """Yields the row's runs and the machine's letter, for each machine that ran tljax."""
    for number, machine in enumerate(results["machines"]):
        if (runs := machine["rows"].get(name)) and runs.get(_OURS):
            yield runs, _letter(number)


def _processor(machine: dict[str, Any]) -> str:
    family = machine["family"] and f"family {machine['family']}"
    return ", ".join(filter(None, (machine["processor"], family, machine["vectors"])))


def _letter(machine: int) -> str:
    return chr(ord("A") + machine)


def _median(runs: Iterable[dict[str, Any]], name: str = "seconds") -> float:
    return statistics.median(run[name] for run in runs)


def _megabytes(run: dict[str, Any]) -> float:
    """Peak memory of the accelerator where there is one, else of the process."""
    found: float = run.get("device_megabytes", run["peak_megabytes"])
    return found


def _seconds(runs: Sequence[dict[str, Any]] | None) -> str:
    """Median (least to most) of the runs, with a dagger if epochs are extrapolated."""
    if not runs:
        return ""
    values = [run["seconds"] for run in runs]
    dagger = "†" if any("measured_epochs" in run for run in runs) else ""
    median, least, most = (_short(f(values)) for f in (statistics.median, min, max))
    return f"{median}{dagger} ({least} to {most})" if len(values) > 1 else f"{median}{dagger}"


def _rate(runs: Sequence[dict[str, Any]] | None, batch: int) -> str:
    return _short(batch / _median(runs)) if runs else ""


def _ratio(theirs: Sequence[dict[str, Any]] | None, ours: Sequence[dict[str, Any]]) -> str:
    return f"{_median(theirs) / _median(ours):.2f}" if theirs else ""


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(cells) + " |" for cells in body] if body else [_EMPTY]
