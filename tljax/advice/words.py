"""Advice in plain words, as `tljax advise` prints it."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tljax.errors import printable

_WORTH_SAYING = 0.02  # share of near-duplicates; fewer change no figure
_IN_WORDS = {"frechet": "Fréchet", "mmd": "MMD", "proxy_a": "proxy-A", "emd": "earth mover's"}


def print_advice(content: Mapping[str, Any], workdir: Path) -> None:
    """Prints the evidence, the strategies and the choice.

    Args:
      content: of `advice.json`.
      workdir: where it lies.
    """
    console = Console(highlight=False, soft_wrap=True)
    for sentence in sentences(content):
        console.print(sentence, markup=False)
    table = Table(title="strategies, by expected accuracy", title_justify="left")
    for heading in ("scenario", "k", "test accuracy", "90 % interval", "cost", "raced"):
        table.add_column(heading, justify="left" if heading == "scenario" else "right")
    for row in content["strategies"]:
        raced = row["raced"]
        table.add_row(
            row["name"],
            "" if row["k"] is None else str(row["k"]),
            f"{row['predicted']:.3f}",
            f"{row['low']:.3f}-{row['high']:.3f}",
            f"{row['cost']:.2f}",
            "" if raced is None else f"{raced['gain']:+.3f} on {raced['images']}",
        )
    Console(highlight=False, width=None if console.is_terminal else 100).print(table)
    console.print(
        f"{printable(workdir / 'advice.html')} shows this; to follow: {train_command(workdir)}",
        markup=False,
    )


def train_command(workdir: Path) -> str:
    """Returns the command that trains what was advised, on one line.

    Args:
      workdir: of the advice.
    """
    words = ["tljax", "train", "--config", workdir / "advised.py", "--workdir", workdir / "run"]
    return printable(shlex.join(map(str, words)))


def sentences(content: Mapping[str, Any]) -> list[str]:
    """The advice in plain words, one sentence an item.

    Args:
      content: of `advice.json`.
    """
    evidence, choice, book = content["evidence"], content["choice"], content["textbook"]
    by_name = {row["name"]: row for row in content["strategies"]}
    chosen, runner_up = by_name[choice["name"]], by_name[choice["runner_up"]]
    best_depth = max(evidence["pretrained"], key=lambda depth: depth["probe"])
    control = max(depth["probe"] for depth in evidence["control"])
    height, width = evidence["height_width"]
    said = [
        f"The target has {evidence['images']:,} training images of {evidence['classes']} classes"
        f" ({evidence['fewest']} to {evidence['most']} a class; always answering the commonest:"
        f" {evidence['naive_accuracy']:.3f}); half of them are at most {height} pixels high, and"
        f" {width} wide." + _near_duplicates(evidence),
        f"A linear head on the pretrained features is right on {evidence['probe']:.3f} of the"
        f" {evidence['looked_at']:,} images looked at (cross-validation), at best"
        f" {best_depth['probe']:.3f}, after {best_depth['group']}; on features of random weights on"
        f" {control:.3f}: pretraining avoids {max(0.0, evidence['similarity']):.0%} of the errors"
        + _percentile(evidence)
        + "."
        + _gives_nothing(evidence),
        _distances(evidence),
        f"Advice: {chosen['name']} ({chosen['in_words']}), expected test accuracy"
        f" {chosen['predicted']:.3f} [{chosen['low']:.3f}-{chosen['high']:.3f}],"
        f" {chosen['cost']:.2f} times the cost of a full fine-tuning; with a probability of"
        f" {choice['sureness']:.0%} no other is better by more than a point."
        + _no_better(chosen["predicted"], evidence["naive_accuracy"]),
        f"Runner-up: {runner_up['name']} ({runner_up['in_words']}), {runner_up['predicted']:.3f}.",
    ]
    if choice["best"] != choice["name"]:
        said.append(
            f"{choice['best']} is expected to be better by half a point at most, and costs more."
        )
    size = "small" if book["is_small"] else "large"
    alike = "similar to" if book["is_similar"] else "unlike"
    said.append(
        f"The textbook says {book['strategy']}, for a {size} target, {alike} the source: the"
        f" evidence {'agrees' if book['agrees'] else 'says otherwise'}."
    )
    cost = content["cost"]
    said.append(
        f"This advice cost {cost['spent']:.2f} of a full fine-tuning (budget {cost['budget']:g})"
        f" and took {cost['seconds']:.0f} s." + _of_the_source(evidence)
    )
    return said


def _of_the_source(evidence: Mapping[str, Any]) -> str:
    if not (images := evidence.get("source_images")):
        return ""
    return f" Beside it {images:,} images of the source were looked at, whose statistics are kept."


def _percentile(evidence: Mapping[str, Any]) -> str:
    return (
        f", more than on {evidence['more_similar_than']:.0%} of {evidence['recorded_targets']}"
        " recorded targets"
    )


def _near_duplicates(evidence: Mapping[str, Any]) -> str:
    said = ""
    share = evidence["near_duplicates"] / evidence["looked_at"]
    if share >= _WORTH_SAYING:
        said += (
            f" {share:.0%} of those looked at nearly equal another one: if these are copies or"
            " frames of one film, cross-validation promises too much."
        )
    for split, (looked_at, found) in evidence["between_splits"].items():
        if found >= _WORTH_SAYING * looked_at:
            said += (
                f" {found:,} of {looked_at:,} {split} images looked at nearly equal one of the"
                f" {evidence['looked_at']:,} training images looked at: if these are copies,"
                f" {split} accuracy promises too much; keep them on one side."
            )
    return said


def _gives_nothing(evidence: Mapping[str, Any]) -> str:
    if evidence["similarity"] > 0:
        return ""
    return (
        " This source gives a linear head no more than random weights do: if there are other"
        " sources, `tljax rank` compares them."
    )


def _no_better(predicted: float, naive: float) -> str:
    if predicted > naive:
        return ""
    return (
        " That is no more than always answering the commonest class: take another source, or"
        " more images."
    )


def _distances(evidence: Mapping[str, Any]) -> str:
    if evidence["no_distances"]:
        why_not = evidence["no_distances"]
        return f"How far it lies from the source's own images is not known: {why_not}."
    nearer = evidence["farther_than"]
    listed = ", ".join(
        f"{_IN_WORDS[name]} {value:.2f}"
        + (f" (nearer: {nearer[name]:.0%} of recorded targets)" if name in nearer else "")
        for name, value in evidence["distances"].items()
    )
    return f"Its features lie this far from those of the source's own images: {listed}."
