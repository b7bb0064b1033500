"""The files `grid.csv` and `grid.png` of a probe: the accuracy of every head."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tljax.runs.workdir import write_atomically

_COLUMNS = ("blocks", "average_pool", "lr", "weight_decay", "val_accuracy", "val_loss")
_SOLVED_COLUMNS = ("blocks", "average_pool", "l2", "accuracy", "loss")  # out of fold


def write_grid(result: Mapping[str, Any], workdir: Path) -> None:
    """Writes `grid.csv`, one row per head, and `grid.png`, accuracy by learning rate or penalty.

    Args:
      result: the content of the probe's `result.json`.
      workdir: for the files.
    """
    rows = result["probe"]["grid"]
    text = io.StringIO()
    columns = _SOLVED_COLUMNS if is_solved(result) else _COLUMNS
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(workdir / "grid.csv", text.getvalue())
    write_atomically(workdir / "grid.png", _draw(result))


def is_solved(result: Mapping[str, Any]) -> bool:
    """Whether the probe's heads were solved, instead of trained at a grid of learning rates."""
    return "l2" in result["probe"]["chosen"]


def describe_features(setting: Mapping[str, Any]) -> str:
    """Describes in words the features that a setting's head sees."""
    if not setting["blocks"]:
        return "mean over patches"
    tokens = "last block" if setting["blocks"] == 1 else f"last {setting['blocks']} blocks"
    return f"{tokens}{', with the mean over patches' if setting['average_pool'] else ''}"


def _draw(result: Mapping[str, Any]) -> bytes:
    from matplotlib.figure import Figure

    probe, solved = result["probe"], is_solved(result)
    by, height = ("l2", "accuracy") if solved else ("lr", "val_accuracy")
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in probe["grid"]:
        name = describe_features(row)
        if len(probe.get("weight_decays", ())) > 1:
            name += f", weight decay {row['weight_decay']:g}"
        lines.setdefault(name, []).append(row)
    for name, rows in lines.items():
        axes.plot([row[by] for row in rows], [row[height] for row in rows], marker=".", label=name)
    axes.plot(
        probe["chosen"][by],
        probe["chosen"]["accuracy"] if solved else result["val_accuracy"],
        "o",
        markersize=11,
        fillstyle="none",
        color="black",
        label="chosen",
    )
    axes.set_xscale("log")
    axes.set_xlabel("l2, strength of the penalty" if solved else "learning rate")
    axes.set_ylabel("accuracy out of fold" if solved else "validation accuracy")
    axes.legend()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=160)
    return content.getvalue()
