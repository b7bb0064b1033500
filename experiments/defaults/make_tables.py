"""Makes table.md from results.csv and peers.csv.

    python experiments/defaults/make_tables.py

An interval over targets and seeds takes sets and seeds as two samples; the sizes of a set are
averaged first, as they share images. Where not all cells have all seeds, each set is the mean of
what it has, and the interval is over sets. Of a single target the mean [lowest-highest] of its
seeds is shown. A run that ended in nan counts as answering the majority class.
"""

import csv
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from run import DEFAULT, FURTHER, NETWORKS, OLD, SCENARIOS, SETS, Run, read

from tljax.analysis import tables
from tljax.analysis.statistics import Interval, crossed_interval, mean_interval

HERE = Path(__file__).parent
LOGISTIC, RECIPE = "logistic", "recipe"
BEST = -0.015  # of the best of the grid, what a default may lose


class Cell(NamedTuple):
    """A scenario on a target; its runs differ in their seeds and variants."""

    network: str
    set: str
    n: int
    scenario: str

    def run(self, seed: int, variant: str) -> Run:
        return Run(self.network, self.set, self.n, seed, self.scenario, variant)


class Study:
    """What was measured: rows of a file of runs, and accuracies of peers.csv.

    Attributes:
      sets: whose targets the tables are about.
    """

    def __init__(self, results: Path, peers: Path, sets: tuple[str, ...] = SETS):
        self.rows, self.sets = read(results), sets
        self.peers: dict[tuple[str, str, int, int, str], float] = {}
        if peers.exists():
            with peers.open(newline="") as file:
                for row in csv.DictReader(file):
                    target = row["network"], row["set"], int(row["n"]), int(row["seed"])
                    self.peers[(*target, row["peer"])] = float(row["accuracy"])

    def cells(self, *scenarios: str) -> Iterator[Cell]:
        """The cells with a default run, in the order of the tables."""
        known = {Cell(r.network, r.set, r.n, r.scenario) for r in self.rows if r.variant == DEFAULT}
        for name, network in NETWORKS.items():
            for n, images, scenario in itertools.product(network.sizes, self.sets, scenarios):
                cell = Cell(name, images, n, scenario)
                if cell in known:
                    yield cell

    def test(self, cell: Cell, variant: str = DEFAULT) -> dict[int, float]:
        """Test accuracies by seed."""
        found = {}
        for seed in NETWORKS[cell.network].seeds:
            row = self.rows.get(cell.run(seed, variant))
            if row is not None:
                found[seed] = float(row["majority"] if row["error"] else row["test_accuracy"])
        return found

    def validation(self, cell: Cell, variant: str) -> dict[int, float]:
        """Accuracies by seed on the images that variants are chosen on; 0 for a run in nan.

        Where a target leaves too few images for that, on its own validation images, if it has any.
        """
        found = {}
        for seed in NETWORKS[cell.network].seeds:
            row = self.rows.get(cell.run(seed, variant), {"error": ""})
            accuracy = row.get("choice_accuracy") or row.get("val_accuracy")
            if row["error"] or accuracy:
                found[seed] = 0.0 if row["error"] else float(accuracy)
        return found

    def peer(self, cell: Cell, peer: str) -> dict[int, float]:
        """A peer's test accuracies by seed."""
        return {
            seed: self.peers[key]
            for seed in NETWORKS[cell.network].seeds
            if (key := (cell.network, cell.set, cell.n, seed, peer)) in self.peers
        }

    def majority(self, cell: Cell) -> float:
        return next(
            float(row["majority"])
            for seed in NETWORKS[cell.network].seeds
            if (row := self.rows.get(cell.run(seed, DEFAULT))) is not None
        )

    def diverged(self, cell: Cell, variant: str) -> int:
        """The number of runs that ended in nan."""
        rows = (self.rows.get(cell.run(s, variant)) for s in NETWORKS[cell.network].seeds)
        return sum(row is not None and bool(row["error"]) for row in rows)

    def seeds_of_all(self, cell: Cell, variants: Iterable[str]) -> set[int]:
        """The seeds that every one of the variants has, with images to choose on."""
        return set.intersection(
            *(self.test(cell, v).keys() & self.validation(cell, v).keys() for v in variants)
        )

    def best_variant(self, cell: Cell) -> tuple[str, set[int]]:
        """The variant with the highest mean validation accuracy; the default, if it is level.

        The means are over the seeds that all variants have, which are returned, too. The empty text
        if there is no choice: a solved head, or no images to choose on.
        """
        network = NETWORKS[cell.network]
        known = [v for v in (*network.rates, *network.lengths) if self.validation(cell, v)]
        seeds = self.seeds_of_all(cell, (DEFAULT, *known))
        if not known or not seeds:
            return "", set()

        def mean(variant: str) -> float:
            values = self.validation(cell, variant)
            return round(float(np.mean([values[seed] for seed in seeds])), 9)

        return max((DEFAULT, *known), key=mean), seeds

    def best(self, cell: Cell) -> dict[int, float]:
        """Test accuracies of `best_variant` by seed, of the seeds that it was chosen on."""
        variant, seeds = self.best_variant(cell)
        return {seed: value for seed, value in self.test(cell, variant).items() if seed in seeds}


def main() -> None:
    study = Study(HERE / "results.csv", HERE / "peers.csv")
    further = Study(HERE / "results.csv", HERE / "peers.csv", sets=FURTHER)
    parts = {
        "Targets": targets_table(study),
        "Means over the sets": means_table(study),
        "Rates and lengths that the other sets would choose": left_out_table(study),
        "Targets, on three further sets": targets_table(further),
        "Every target": cells_table(study) + "\n" + cells_table(further),
        "The peers": peers_table(study) + "\n" + peers_table(further),
    }
    text = "\n".join(f"## {title}\n\n{table}" for title, table in parts.items())
    (HERE / "table.md").write_text(text)
    print(text)


# ------------------------------------------------------------------------------- differences


def difference(
    study: Study,
    cells: Iterable[Cell],
    a: Callable[[Cell], dict[int, float]],
    b: Callable[[Cell], dict[int, float]],
) -> tuple[Interval, float, int] | None:
    """The mean of a - b over cells, with its interval over sets and seeds.

    Only seeds that both have count.

    Returns:
      (mean with interval, lowest mean of a cell, number of cells); None if no cell counts.
    """
    by_set: dict[str, list[dict[int, float]]] = {}
    whole = True
    for cell in cells:
        ours, theirs, seeds = a(cell), b(cell), NETWORKS[cell.network].seeds
        if both := ours.keys() & theirs.keys():
            whole = whole and both >= set(seeds)
            gap = {seed: ours[seed] - theirs[seed] for seed in sorted(both)}
            by_set.setdefault(cell.set, []).append(gap)
    if not by_set:
        return None
    gaps = [[list(gap.values()) for gap in of_set] for of_set in by_set.values()]
    means = [[float(np.mean(gap)) for gap in of_set] for of_set in gaps]
    flat = list(itertools.chain(*means))
    if whole:
        interval = crossed_interval(np.stack([np.mean(of_set, axis=0) for of_set in gaps]))
    else:
        interval = mean_interval([float(np.mean(of_set)) for of_set in means])
    return interval, min(flat), len(flat)


def verdict(measured: Interval, limit: float, lowest: float, lowest_limit: float | None) -> str:
    """Whether a target holds, by the mean, and whether the interval includes its limit."""
    holds = round(measured.mean, 9) >= limit
    holds = holds and (lowest_limit is None or round(lowest, 9) >= lowest_limit)
    unsure = measured.low < limit < measured.high
    return ("holds" if holds else "does not hold") + (", not clearly" if unsure else "")


# ------------------------------------------------------------------------------------- tables


def targets_table(study: Study) -> str:
    """The targets: differences with their limits, runs at the majority class, runs in nan."""
    head = ["target", "network", "limit", "mean", "cells", "lowest of a cell", "verdict"]
    lines = []

    def add(text: str, cells: list[Cell], b: Callable, limit: float, lowest_limit: float | None):
        for network in NETWORKS:
            chosen = [cell for cell in cells if cell.network == network]
            found = difference(study, chosen, study.test, b)
            if found is None:
                continue
            measured, lowest, count = found
            limits = f"{limit:+.3f}"
            limits += "" if lowest_limit is None else f", lowest {lowest_limit:+.3f}"
            said = verdict(measured, limit, lowest, lowest_limit)
            numbers = [limits, tables.signed(measured), str(count), f"{lowest:+.3f}", said]
            lines.append([text, network, *numbers])

    extraction, tuned = list(study.cells("feature_extraction")), list(study.cells("fine_tune"))
    text = "feature extraction over logistic regression"
    add(text, extraction, lambda cell: study.peer(cell, LOGISTIC), -0.005, -0.02)
    for scenario in SCENARIOS:
        text = f"{_words(scenario)} over its best of the grid"
        cells = list(study.cells(scenario))
        add(text, cells, study.best, BEST, None)
    text = "fine tune over the recipe of PyTorch"
    add(text, tuned, lambda cell: study.peer(cell, RECIPE), -0.01, None)

    def extracted(cell: Cell) -> dict[int, float]:
        return study.test(cell._replace(scenario="feature_extraction"))

    for scenario in ("fine_tune", "freeze_first"):
        text = f"{_words(scenario)} over feature extraction"
        add(text, list(study.cells(scenario)), extracted, -0.005, -0.02)
    return tables.markdown(head, lines) + "\n" + _failures(study)


def _failures(study: Study) -> str:
    """How many default runs end at or below the majority class, or in nan."""
    head = ["default runs", "number", "at or below the majority class", "ended in nan", "verdict"]
    lines = []
    for network, scenario in itertools.product(NETWORKS, SCENARIOS):
        cells = [cell for cell in study.cells(scenario) if cell.network == network]
        count = sum(len(study.test(cell)) for cell in cells)
        nan = sum(study.diverged(cell, DEFAULT) for cell in cells)
        low = sum(
            accuracy <= study.majority(cell)
            for cell in cells
            for accuracy in study.test(cell).values()
        )
        if count:
            said = "does not hold" if low or nan else "holds"
            numbers = [str(count), str(low), str(nan), said]
            lines.append([f"{network}, {_words(scenario)}", *numbers])
    return tables.markdown(head, lines)


def means_table(study: Study) -> str:
    """Mean accuracies over the sets, by network, size and scenario."""
    head = ["network", "images", "scenario", "cells", "default", "over the best of the grid"]
    head += ["over logistic regression", "over the recipe", "over the earlier file", "majority"]
    lines = []
    for name, network in NETWORKS.items():
        for n, scenario in itertools.product(network.sizes, SCENARIOS):
            cells = [c for c in study.cells(scenario) if (c.network, c.n) == (name, n)]
            mean = difference(study, cells, study.test, lambda c: dict.fromkeys(study.test(c), 0.0))
            if mean is None:
                continue
            others = [
                study.best,
                lambda c: study.peer(c, LOGISTIC),
                lambda c: study.peer(c, RECIPE) if c.scenario == "fine_tune" else {},
                lambda c: study.test(c, OLD),
            ]
            gaps = [difference(study, cells, study.test, other) for other in others]
            texts = ["" if gap is None else tables.difference(gap[0]) for gap in gaps]
            majority = f"{np.mean([study.majority(cell) for cell in cells]):.3f}"
            first = [name, f"{n:,}", _words(scenario), str(mean[2]), tables.score(mean[0])]
            lines.append([*first, *texts, majority])
    return tables.markdown(head, lines)


def left_out_table(study: Study) -> str:
    """The factor that the other sets' validation images choose, tested on the set left out."""
    head = ["network", "scenario", "of the", "left out", "factor", "accuracy with it", "default"]
    head += ["gain"]
    lines = []
    for name, network in NETWORKS.items():
        kinds = {"rate": network.rates, "length": network.lengths}
        for scenario, (kind, named) in itertools.product(SCENARIOS, kinds.items()):
            cells = [cell for cell in study.cells(scenario) if cell.network == name]
            run = [v for v in named if len({c.set for c in cells if study.test(c, v)}) > 1]
            if run:
                lines += _left_out(study, name, scenario, kind, (DEFAULT, *run))
    return tables.markdown(head, lines)


def _left_out(
    study: Study, network: str, scenario: str, kind: str, variants: tuple[str, ...]
) -> list[list[str]]:
    complete: dict[str, dict[Cell, set[int]]] = {}  # by set, cells and the seeds of all variants
    for cell in study.cells(scenario):
        if cell.network == network and (seeds := study.seeds_of_all(cell, variants)):
            complete.setdefault(cell.set, {})[cell] = seeds

    def mean(of: Callable[[Cell, str], dict[int, float]], images: str, variant: str) -> float:
        values = ([of(cell, variant)[s] for s in seeds] for cell, seeds in complete[images].items())
        return float(np.mean(list(itertools.chain(*values))))

    lines, gains = [], []
    for left_out in complete if len(complete) > 1 else ():
        others = [images for images in complete if images != left_out]
        scores = {
            v: round(float(np.mean([mean(study.validation, images, v) for images in others])), 9)
            for v in variants
        }
        chosen = max(scores, key=scores.__getitem__)  # the default, if it is level
        tested = [mean(study.test, left_out, variant) for variant in (chosen, DEFAULT)]
        gains.append(tested[0] - tested[1])
        factor = "1" if chosen == DEFAULT else chosen.removeprefix(f"{kind} ")
        numbers = [*(f"{accuracy:.3f}" for accuracy in tested), f"{gains[-1]:+.3f}"]
        lines.append([network, _words(scenario), kind, left_out, factor, *numbers])
    if gains:
        total = tables.difference(mean_interval(gains))
        lines.append([network, _words(scenario), kind, "**each in turn**", "", "", "", total])
    return lines


def cells_table(study: Study) -> str:
    """Every target: the default, its best of the grid, the peers and the earlier file."""
    head = ["network", "images", "set", "scenario", "default", "best of the grid"]
    head += ["logistic regression", "recipe", "earlier file", "majority"]
    lines = []
    for cell in study.cells(*SCENARIOS):
        best, _ = study.best_variant(cell)
        recipe = study.peer(cell, RECIPE) if cell.scenario == "fine_tune" else {}
        columns = [
            _mean(study.test(cell), study.diverged(cell, DEFAULT)),
            f"{_mean(study.best(cell), study.diverged(cell, best))} ({best})" if best else "",
            _mean(study.peer(cell, LOGISTIC)),
            _mean(recipe),
            _mean(study.test(cell, OLD), study.diverged(cell, OLD)),
        ]
        first = [cell.network, f"{cell.n:,}", cell.set, _words(cell.scenario)]
        lines.append([*first, *columns, f"{study.majority(cell):.3f}"])
    return tables.markdown(head, lines)


def peers_table(study: Study) -> str:
    """Test accuracies of the peers."""
    head = ["network", "images", "set", "seeds", "logistic regression", "recipe"]
    lines = []
    for name, network in NETWORKS.items():
        for n, images in itertools.product(network.sizes, study.sets):
            cell = Cell(name, images, n, "fine_tune")
            logistic, recipe = study.peer(cell, LOGISTIC), study.peer(cell, RECIPE)
            if logistic or recipe:
                seeds = f"{len(logistic)}, {len(recipe)}" if recipe else str(len(logistic))
                numbers = [seeds, _mean(logistic), _mean(recipe)]
                lines.append([name, f"{n:,}", images, *numbers])
    return tables.markdown(head, lines)


def _mean(by_seed: dict[int, float], diverged: int = 0) -> str:
    """Mean [lowest-highest] of the seeds: of two or three, an interval would say nothing."""
    if not by_seed:
        return ""
    values = list(by_seed.values())
    text = f"{np.mean(values):.3f}"
    if len(values) > 1:
        text += f" [{min(values):.3f}-{max(values):.3f}]"
    return f"{text} ({diverged} nan)" if diverged else text


def _words(scenario: str) -> str:
    return scenario.replace("_", " ")


if __name__ == "__main__":
    main()
