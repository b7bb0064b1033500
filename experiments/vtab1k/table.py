"""Prints the test accuracy of VTAB-1k by task and by group, from a sweep's finished runs.

usage: python experiments/vtab1k/table.py WORKDIR
"""

import csv
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path

from config import GROUPS, TASKS, data


def by_task(results: Path) -> dict[str, list[float]]:
    """Test accuracies in percent of the finished runs of `results.csv`, by task."""
    tasks = {data(task, part): task for task in TASKS for part in ("tune", "final")}
    found: dict[str, list[float]] = {}
    with results.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["status"] == "done":
                accuracy = 100 * float(row["test_accuracy"])
                found.setdefault(tasks[row["data"]], []).append(accuracy)
    return found


def by_group(accuracies: Mapping[str, list[float]]) -> dict[str, float]:
    """Each group's mean of its tasks' medians, and `all`: the mean of the groups' means.

    A group of which a task is missing is left out, and then so is `all`.
    """
    means = {
        group: statistics.mean(statistics.median(accuracies[task]) for task in tasks)
        for group, tasks in GROUPS.items()
        if all(task in accuracies for task in tasks)
    }
    if len(means) == len(GROUPS):
        means["all"] = statistics.mean(means.values())
    return means


def main() -> None:
    accuracies = by_task(Path(sys.argv[1]) / "results.csv")
    print("| group | task | runs | median test accuracy |\n|---|---|---|---|")
    for group, tasks in GROUPS.items():
        for task in tasks:
            runs = accuracies.get(task, [])
            median = f"{statistics.median(runs):.2f}" if runs else "not run"
            print(f"| {group} | {task} | {len(runs)} | {median} |")
    print("\n| group | mean |\n|---|---|")
    means = by_group(accuracies)
    for group in (*GROUPS, "all"):
        print(f"| {group} | {f'{means[group]:.2f}' if group in means else 'not complete'} |")


if __name__ == "__main__":
    main()
