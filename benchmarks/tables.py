"""From results to what a person reads: the tables in README.md, and the picture of growth."""

import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import jobs

Rows = dict[str, dict[str, list[dict[str, Any]]]]
_OURS = "tljax"
_EMPTY = "Not measured yet."


def write_tables(results: dict[str, Any], readme: Path) -> None:
    """Puts each table between its two marks in README.md; without figures the mark stays empty."""
    text = readme.read_text()
    for name, make in _TABLES.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        pattern = re.escape(begin) + r".*?" + re.escape(end)
        table = "\n".join([begin, "", *make(results), "", end])
        text = re.sub(pattern, lambda _, table=table: table, text, flags=re.DOTALL)
    readme.write_text(text)


def write_growth(results: dict[str, Any], path: Path) -> None:
    """Time against images, epochs and k, beside the line of the law."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    points = _growth(results["rows"])
    if not points:
        return
    middle = {"images": 128, "epochs": 4, "k": 10}
    figure, panels = plt.subplots(1, 3, figsize=(10, 3.2), sharey=True, layout="constrained")
    for axes, varied in zip(panels, middle, strict=True):
        chosen = sorted(
            (p for p in points if all(p[o] == v for o, v in middle.items() if o != varied)),
            key=lambda p: p[varied],
        )
        x = [p[varied] for p in chosen]
        axes.plot(x, [p["law"] for p in chosen], color="0.6", label="law", zorder=1)
        axes.scatter(x, [p["seconds"] for p in chosen], color="#0b6e99", label="measured", zorder=2)
        axes.set_xlabel({"k": "k, groups frozen"}.get(varied, varied))
        axes.set_xticks(x)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("seconds")
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _machine(results: dict[str, Any]) -> list[str]:
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    peak = results["rows"].get("peak", {}).get(_OURS)
    lines = [
        f"{machine['processor']}, {machine['cores']} cores; JAX on {machine['devices']} x"
        f" {machine['device']}; {versions}."
    ]
    if peak:
        gigaflops = _median(peak, "flops_per_second") / 1e9
        lines.append(f"Fastest float32 matrix product: {gigaflops:,.0f} GFLOP/s.")
    return lines


def _jobs(results: dict[str, Any]) -> list[str]:
    labels = (_OURS, "timm", "timm, features by hand", "Keras")
    head = ["job", *(f"{label}, s" for label in labels)]
    head += [f"{label} / tljax" for label in labels[1:]] + ["peak MB: tljax, timm, Keras"]
    body = []
    for name in jobs.JOBS:
        row = results["rows"].get(f"jobs/{name}")
        if not row:
            continue
        cells = [name.replace("/", " ")]
        cells += [_seconds(row.get(label)) for label in labels]
        cells += [_ratio(row.get(label), row[_OURS]) for label in labels[1:]]
        peaks = [
            f"{_median(row[o], 'peak_megabytes'):,.0f}"
            for o in (_OURS, "timm", "Keras")
            if row.get(o)
        ]
        body.append([*cells, ", ".join(peaks)])
    return _table(head, body)


def _forward(results: dict[str, Any]) -> list[str]:
    labels = (_OURS, "timm", "timm, compiled", "timm, channels_last", "Keras")
    head = ["network", "batch", *(f"{label}" for label in labels), "tljax / timm", "share of peak"]
    body = []
    for network in jobs.NETWORKS:
        for batch in (2, 4, 8, 16, jobs.BATCH):
            row = results["rows"].get(f"forward/{network}/{batch}")
            if not row:
                continue
            cells = [network, str(batch)]
            cells += [_rate(row.get(label), batch) for label in labels]
            cells.append(_ratio(row.get("timm"), row[_OURS]))
            cells.append(f"{_median(row[_OURS], 'share_of_peak'):.0%}")
            body.append(cells)
    return _table(head, body)


def _steps(results: dict[str, Any]) -> list[str]:
    labels = (_OURS, "timm", "timm, compiled", "timm, channels_last", "timm, huge pages", "Keras")
    body = []
    for network in jobs.NETWORKS:
        row = results["rows"].get(f"step/{network}")
        if row:
            cells = [_rate(row.get(label), jobs.BATCH) for label in labels]
            body.append([network, *cells, _ratio(row.get("timm"), row[_OURS])])
    return _table(["network", *labels, "tljax / timm"], body)


def _single(results: dict[str, Any]) -> list[str]:
    rows: Rows = results["rows"]
    body = []
    for name, ratio in _overhead(rows).items():
        body.append([f"tljax's step / a minimal JAX step, {name}", f"{ratio:.3f}"])
    if "warm epoch" in rows:
        body.append(
            [
                "an epoch of S1 over 2,000 images from a warm cache",
                _seconds(rows["warm epoch"][_OURS]) + " s",
            ]
        )
    for scenario in ("feature_extraction", "fine_tune"):
        if row := rows.get(f"start/{scenario}"):
            words = f"`tljax train` to its first step, {scenario}, warm compilation cache"
            body.append([words, _seconds(row[_OURS]) + " s"])
    return _table(["measured", "median (least to most)"], body)


def _growth_table(results: dict[str, Any]) -> list[str]:
    body = [
        [
            str(p["images"]),
            str(p["epochs"]),
            str(p["k"]),
            f"{p['seconds']:.1f}",
            f"{p['law']:.1f}",
            f"{p['seconds'] / p['law']:.2f}",
        ]
        for p in _growth(results["rows"])
    ]
    return _table(["images", "epochs", "k", "seconds", "law", "ratio"], body)


_TABLES: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "machine": _machine,
    "jobs": _jobs,
    "forward": _forward,
    "steps": _steps,
    "single figures": _single,
    "growth": _growth_table,
}


def _growth(rows: Rows) -> list[dict[str, Any]]:
    """Each point with its seconds, and those of the law: forward passes at the measured speed."""
    points = []
    for name, row in rows.items():
        if name.startswith("growth/"):
            images, epochs, k = map(int, name.split("/")[1:])
            runs = row[_OURS]
            law = _median(runs, "forwards") * _median(runs, "forward_seconds")
            points.append(
                {"images": images, "epochs": epochs, "k": k, "seconds": _median(runs), "law": law}
            )
    return sorted(points, key=lambda p: (p["images"], p["epochs"], p["k"]))


def _overhead(rows: Rows) -> dict[str, float]:
    runs = rows.get("overhead", {}).get(_OURS, [])
    names = [name for name in (runs[0] if runs else {}) if name != "peak_megabytes"]
    return {name: _median(runs, name) for name in names}


def _median(runs: Iterable[dict[str, Any]], name: str = "seconds") -> float:
    return statistics.median(run[name] for run in runs)


def _seconds(runs: Sequence[dict[str, Any]] | None) -> str:
    """Median (least to most); a dagger where later epochs are extrapolated."""
    if not runs:
        return ""
    values = [run["seconds"] for run in runs]
    dagger = "†" if any("measured_epochs" in run for run in runs) else ""
    median, least, most = (_short(f(values)) for f in (statistics.median, min, max))
    return f"{median}{dagger} ({least} to {most})"


def _rate(runs: Sequence[dict[str, Any]] | None, batch: int) -> str:
    return _short(batch / _median(runs)) if runs else ""


def _ratio(theirs: Sequence[dict[str, Any]] | None, ours: Sequence[dict[str, Any]]) -> str:
    return f"{_median(theirs) / _median(ours):.2f}" if theirs else ""


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(cells) + " |" for cells in body] if body else [_EMPTY]
