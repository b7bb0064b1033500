"""The files `grid.csv` and `grid.png` of a probe: validation accuracy of every head."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tljax.runs.workdir import write_atomically

_COLUMNS = ("blocks", "average_pool", "lr", "weight_decay", "val_accuracy", "val_loss")


def write_grid(result: Mapping[str, Any], workdir: Path) -> None:
    """Writes `grid.csv`, one row per head, and `grid.png`, validation accuracy by learning rate.

    Args:
      result: the content of the probe's `result.json`.
      workdir: for the files.
    """
    rows = result["probe"]["grid"]
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(workdir / "grid.csv", text.getvalue())
    write_atomically(workdir / "grid.png", _draw(result))


def describe_features(setting: Mapping[str, Any]) -> str:
    """Describes in words the features that a setting's head sees."""
    tokens = "last block" if setting["blocks"] == 1 else f"last {setting['blocks']} blocks"
    return f"{tokens}{', with the mean over patches' if setting['average_pool'] else ''}"


def _draw(result: Mapping[str, Any]) -> bytes:
    from matplotlib.figure import Figure

    probe = result["probe"]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in probe["grid"]:
        name = describe_features(row)
        if len(probe["weight_decays"]) > 1:
            name += f", weight decay {row['weight_decay']:g}"
        lines.setdefault(name, []).append(row)
    for name, rows in lines.items():
        rates = [row["lr"] for row in rows]
        axes.plot(rates, [row["val_accuracy"] for row in rows], marker=".", label=name)
    axes.plot(
        probe["chosen"]["lr"],
        result["val_accuracy"],
        "o",
        markersize=11,
        fillstyle="none",
        color="black",
        label="chosen",
    )
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("validation accuracy")
    axes.legend()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=160)
    return content.getvalue()
