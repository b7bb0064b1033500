"""Judges advice on the record, and fits the prior that comes with tljax.

    python experiments/advice/make_tables.py            # table.md
    python experiments/advice/make_tables.py --fit      # also tljax/advice/prior.json

Accuracies are those of ../defaults/results.csv, evidence and races those of evidence.csv and
races.csv. Each root data set is left out in turn: the prior is fitted on the others.
"""

import argparse
import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import targets
from scipy.stats import rankdata, weightedtau

import tljax.advice
from tljax.advice import distances, prior, textbook
from tljax.advice.decision import CLOSE, Measured, believe, choose, interval
from tljax.advice.prior import Normal, Prior, Recorded
from tljax.advice.races import LENGTHS, halve, races_first
from tljax.advice.ranking import SCORES
from tljax.advice.strategies import FINE_TUNE, NAMES, PROBE
from tljax.analysis.statistics import mean_interval

HERE = Path(__file__).parent
# Cost of each strategy in units of fine-tuning, as `tljax advise` prints it, by kind of network.
COSTS = {
    "small": dict(zip(NAMES, (0.0, 0.75, 1.0, 0.67), strict=True)),
    "large": dict(zip(NAMES, (0.01, 0.74, 1.0, 5.0), strict=True)),
}
# Strategies that advice does not choose among, with their names among the variants of defaults.
OTHERS = {"twice k": "freeze first, twice k", "lora": "LoRA"}
ALL = (*NAMES, *OTHERS.values())
QUARTER, WHOLE = 0.21, 0.96  # what budgets of .25 and 1 leave for races, of 100 images
_USUAL_DEVIATION = 0.02  # of an accuracy over seeds, where no target has several
Key = tuple[str, str, int, int]  # and seed


class Case(NamedTuple):
    """A target with one seed: its evidence, and the test accuracy of each strategy."""

    recorded: Recorded
    images: int
    races: dict[tuple[str, float], "Race"]  # by strategy and length


class Race(NamedTuple):
    """A race that was run, and what it and the whole run cost, in units of fine-tuning."""

    measured: Measured
    race_cost: float
    cost: float


MEAN_RANK = "mean of the ranks"  # in all scores above, as `tljax rank` takes it


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fit", action="store_true", help="write tljax/advice/prior.json")
    parser.add_argument("--results", type=Path, default=HERE.parent / "defaults" / "results.csv")
    parser.add_argument("--evidence", type=Path, default=HERE / "evidence.csv")
    parser.add_argument("--races", type=Path, default=HERE / "races.csv")
    parser.add_argument("--ranking", type=Path, default=HERE / "ranking.csv")
    args = parser.parse_args()
    cases = read_cases(args.results, args.evidence, args.races)
    if args.fit:
        fitted = prior.fit(case.recorded for case in cases.values())
        file = Path(tljax.advice.__file__).parent / "prior.json"
        file.write_text(json.dumps(fitted.to_json(), indent=1) + "\n")
    parts = [regrets(cases), coverage(cases), sureness(cases), every_target(cases)]
    if ranked := targets.read(args.ranking):
        parts.append(ranking(ranked))
    text = "\n\n".join(parts)
    (HERE / "table.md").write_text(text + "\n")
    print(text)


def read_cases(results: Path, evidence_file: Path, races_file: Path) -> dict[Key, Case]:
    """The targets whose probe and fine-tuning are recorded."""
    run = read_races(races_file)
    accuracies: dict[Key, dict[str, float]] = defaultdict(dict)
    for row in targets.read(results):
        name = OTHERS.get(row["variant"], row["scenario"])
        if row["variant"] in ("default", *OTHERS):
            accuracy = float(row["majority"] if row["error"] else row["test_accuracy"])
            accuracies[targets.key_of(row)][name] = accuracy
    cases = {}
    for row in targets.read(evidence_file):
        key = targets.key_of(row)
        found = accuracies.get(key, {})
        if {PROBE, FINE_TUNE} <= found.keys():
            images, probe = int(row["images"]), float(row["probe"])
            known = prior.covariates_of(images, probe, float(row["similarity"]))
            kind = prior.kind_of(int(row["parameters"]))
            races = run.get(key, {})
            raced = {
                which: Normal(race.measured.gain, race.measured.sampling**0.5)
                for which, race in races.items()
            }
            away = {name: float(row[name]) for name in distances.NAMES if row[name]}
            recorded = Recorded(kind, key[1], known, probe, found, raced, away)
            cases[key] = Case(recorded, images, races)
    return cases


def read_races(path: Path) -> dict[Key, dict[tuple[str, float], Race]]:
    """The rows of races.csv by target."""
    found: dict[Key, dict[tuple[str, float], Race]] = defaultdict(dict)
    for row in targets.read(path):
        key = targets.key_of(row)
        length = float(row["length"])
        accuracy = float(row["accuracy"])
        measured = Measured(float(row["gain"]), int(row["images"]), accuracy, length)
        race = Race(measured, float(row["race_cost"]), float(row["cost"]))
        found[key][row["strategy"], length] = race
    return found


def advice(case: Case, fitted: Prior, budget: float = 0.0) -> str:
    """The strategy that `tljax advise` would choose with a budget, of those that are recorded."""
    gains = beliefs(case, fitted, {})
    ranked = races_first(sorted(gains, key=lambda name: -gains[name].mean))
    ranked = [name for name in ranked if all((name, a) in case.races for a in LENGTHS)]
    if budget and ranked:
        raced, _ = halve(ranked, *_recorded_races(case, budget))
        gains = beliefs(case, fitted, raced)
    return choose(gains, COSTS[case.recorded.kind]).name


def beliefs(case: Case, fitted: Prior, raced: Mapping[str, Measured]) -> dict[str, Normal]:
    """The gain over the probe of each recorded strategy, by other data sets and by races."""
    found = case.recorded
    names = [name for name in NAMES if name in found.accuracies]
    return believe(fitted, found.kind, found.covariates, names, raced, found.out_of_fold)


def without(cases: Mapping[Key, Case], root: str) -> Prior:
    """The prior of all other root data sets."""
    return prior.fit(case.recorded for case in cases.values() if case.recorded.root != root)


# ------------------------------------------------------------------------------------ regret


def regrets(cases: Mapping[Key, Case]) -> str:
    """A table: how much accuracy each way of choosing loses, in points."""
    priors = {
        root: without(cases, root) for root in {case.recorded.root for case in cases.values()}
    }

    def best_fixed(key: Key, case: Case) -> str:
        others = [c for k, c in cases.items() if k[0] == key[0] and k[1] != key[1]]
        names = [n for n in ALL if n in case.recorded.accuracies]
        return max(names, key=lambda name: _mean_gain(others, name))

    def advised(budget: float) -> Callable[[Key, Case], list[str]]:
        return lambda key, case: [advice(case, priors[case.recorded.root], budget)]

    def always(name: str) -> Callable[[Key, Case], list[str]]:
        return lambda key, case: [name]

    ways: dict[str, Callable[[Key, Case], list[str]]] = {
        "advice, features alone": advised(0.0),
        "advice, budget 0.25": advised(QUARTER),
        "advice, budget 1": advised(WHOLE),
        "successive halving alone, budget 0.25": lambda _, case: halving_alone(case, QUARTER),
        "successive halving alone, budget 1": lambda _, case: halving_alone(case, WHOLE),
        "random search, budget 0.25": lambda _, case: random_search(case, QUARTER),
        "random search, budget 1": lambda _, case: random_search(case, WHOLE),
        "textbook": lambda _, case: [
            textbook.advise(case.images, case.recorded.covariates.similarity).strategy
        ],
        "always the probe": always(PROBE),
        "always freeze first": always("freeze_first"),
        "always fine-tune": always(FINE_TUNE),
        "always from scratch": always("from_scratch"),
        **{f"always {name}": always(name) for name in OTHERS.values()},
        "the best fixed one of the other sets": lambda key, case: [best_fixed(key, case)],
    }
    lines = []
    for network in sorted({key[0] for key in cases}):
        for way, choose_by in ways.items():
            lost: dict[str, list[float]] = defaultdict(list)
            for key, case in cases.items():
                if key[0] == network:
                    best = best_of_other_seeds(cases, key)
                    accuracies = case.recorded.accuracies
                    names = [name for name in choose_by(key, case) if name in accuracies]
                    if names:
                        expected = np.mean([accuracies[name] for name in names])
                        lost[key[1]].append(accuracies[best] - float(expected))
            if lost:
                lines.append([network, way, *_summary(lost)])
        lines.append([network, "any, if all strategies tied", *_summary(if_tied(cases, network))])
    head = ["network", "way of choosing", "targets", "mean regret", "interval", "worst set"]
    return "## Regret, in points of test accuracy\n\n" + _table(head, lines)


def halving_alone(case: Case, budget: float) -> list[str]:
    """What successive halving chooses without a prior, for each order of the strategies."""
    return [_best(halve(order, *_recorded_races(case, budget))[0]) for order in _orders(case)]


def random_search(case: Case, budget: float) -> list[str]:
    """What whole races in a random order choose, as many as fit, for each order."""
    found = []
    for order in _orders(case):
        cost_of, available, race = _recorded_races(case, budget)
        raced = {}
        for name in order:
            if cost_of(name, 1.0) <= available:
                available -= cost_of(name, 1.0)
                raced[name] = race(name, 1.0)
        found.append(_best(raced))
    return found


def _orders(case: Case) -> list[tuple[str, ...]]:
    raced = [n for n in NAMES if all((n, length) in case.races for length in LENGTHS)]
    return list(itertools.permutations(raced)) if raced else []


def _recorded_races(
    case: Case, budget: float
) -> tuple[Callable[[str, float], float], float, Callable[[str, float], Measured]]:
    """What `halve` takes: costs, the budget, and races that were run."""
    return (
        lambda name, length: case.races[name, length].race_cost,
        budget,
        lambda name, length: case.races[name, length].measured,
    )


def _best(raced: Mapping[str, Measured]) -> str:
    """The strategy with the highest measured gain; the probe if none is above it."""
    best = max(raced, key=lambda name: raced[name].gain, default=PROBE)
    return best if best != PROBE and raced[best].gain > 0 else PROBE


def if_tied(cases: Mapping[Key, Case], network: str) -> dict[str, list[float]]:
    """The regret to expect of any choice if strategies differed by chance alone, by data set.

    It is 0 where the best is chosen on other seeds. On the same seed it is the largest of as many
    draws as there are strategies, with the deviation that seeds have.
    """
    spreads = defaultdict(list)
    for key, case in cases.items():
        if key[0] == network:
            for name, accuracy in case.recorded.accuracies.items():
                spreads[(*key[:3], name)].append(accuracy)
    variances = [np.var(some, ddof=1) for some in spreads.values() if len(some) > 1]
    deviation = float(np.sqrt(np.mean(variances))) if variances else _USUAL_DEVIATION
    rng = np.random.default_rng(0)
    expected = defaultdict(list)
    for key, case in cases.items():
        if key[0] == network:
            alone = sum(other[:3] == key[:3] for other in cases) == 1
            draws = rng.standard_normal((10_000, len(case.recorded.accuracies)))
            expected[key[1]].append(alone * deviation * float(draws.max(axis=1).mean()))
    return expected


def best_of_other_seeds(cases: Mapping[Key, Case], key: Key) -> str:
    """The best strategy of a target on its other seeds, if it has any; else on its own."""
    network, images, n, seed = key
    same = [c for k, c in cases.items() if k[:3] == (network, images, n) and k[3] != seed]
    scored = same or [cases[key]]
    names = [n for n in ALL if all(n in c.recorded.accuracies for c in [*scored, cases[key]])]
    return max(names, key=lambda name: np.mean([c.recorded.accuracies[name] for c in scored]))


def _mean_gain(cases: Iterable[Case], name: str) -> float:
    gains = [
        case.recorded.accuracies[name] - case.recorded.accuracies[PROBE]
        for case in cases
        if name in case.recorded.accuracies
    ]
    return float(np.mean(gains)) if gains else -np.inf


def _summary(lost: Mapping[str, list[float]]) -> list[str]:
    """Number of targets, mean over sets, its interval, and the worst set."""
    means = {images: 100 * float(np.mean(some)) for images, some in lost.items()}
    worst = max(means, key=means.__getitem__)
    between = mean_interval(list(means.values())) if len(means) > 1 else None
    return [
        str(sum(map(len, lost.values()))),
        f"{np.mean(list(means.values())):.2f}",
        "" if between is None else f"{between.low:.1f} to {between.high:.1f}",
        f"{worst} {means[worst]:.1f}",
    ]


# ---------------------------------------------------------------------------------- intervals


def coverage(cases: Mapping[Key, Case]) -> str:
    """A table: how often the 90 % intervals hold, each root data set left out."""
    lines = []
    for network in sorted({key[0] for key in cases}):
        held: dict[str, list[bool]] = defaultdict(list)
        for key, case in cases.items():
            if key[0] != network:
                continue
            fitted = without(cases, case.recorded.root)
            if case.recorded.kind not in fitted.offsets:
                continue
            offset = fitted.offsets[case.recorded.kind]
            rate = case.recorded.out_of_fold
            for name, gain in beliefs(case, fitted, {}).items():
                spread = gain.deviation**2 + offset.deviation**2
                spread += rate * (1 - rate) / min(case.images, 2_000)
                low, high = interval(Normal(rate + offset.mean + gain.mean, spread**0.5))
                held[name].append(low <= case.recorded.accuracies[name] <= high)
        for name, some in held.items():
            lines.append([network, name, str(len(some)), f"{np.mean(some):.2f}"])
    return "## Share of 90 % intervals that hold\n\n" + _table(
        ["network", "strategy", "targets", "hold"], lines
    )


def sureness(cases: Mapping[Key, Case]) -> str:
    """A table: how often advice was right by a point, and how sure of it it was; roots left out."""
    lines = []
    for network in sorted({key[0] for key in cases}):
        said, came = [], []
        for key, case in cases.items():
            if key[0] == network:
                fitted, found = without(cases, case.recorded.root), case.recorded.accuracies
                gains = beliefs(case, fitted, {})
                choice = choose(gains, COSTS[case.recorded.kind])
                said.append(choice.sureness)
                came.append(found[choice.name] >= max(found[name] for name in gains) - CLOSE)
        lines.append([network, str(len(said)), f"{np.mean(said):.2f}", f"{np.mean(came):.2f}"])
    title = "## No other is better by more than a point: probability said, and share that held"
    return f"{title}\n\n{_table(['network', 'targets', 'said', 'held'], lines)}"


def every_target(cases: Mapping[Key, Case]) -> str:
    """A table of all targets: evidence, accuracies, and what was advised."""
    lines = []
    for key, case in sorted(cases.items()):
        fitted = without(cases, case.recorded.root)
        accuracies = case.recorded.accuracies
        known = case.recorded.covariates
        lines.append(
            [
                *map(str, key),
                f"{case.recorded.out_of_fold:.3f}",
                f"{known.similarity:.2f}",
                *(f"{accuracies[name]:.3f}" if name in accuracies else "" for name in ALL),
                advice(case, fitted),
                textbook.advise(case.images, known.similarity).strategy,
            ]
        )
    head = ["network", "set", "images", "seed", "probe, out of fold", "similarity", *ALL]
    return "## Every target\n\n" + _table([*head, "advice", "textbook"], lines)


# ------------------------------------------------------------------------------------ ranking


def ranking(rows: list[dict[str, str]]) -> str:
    """A table: how well each score of `tljax rank` orders the sources, and what its choice loses.

    The truth is the test accuracy of a fine-tuning from each source. Scores choose the source with
    the highest value; `parameters`, the only static prior that all have, the largest one.
    """
    by_target: dict[tuple[str, str, str], list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        by_target[row["target"], row["n"], row["seed"]].append(row)
    for sources in by_target.values():
        common = [score for score in SCORES if all(row[score] for row in sources)]
        ranks = [rankdata([-float(row[score]) for row in sources]) for score in common]
        for row, rank in zip(sources, np.mean(ranks, axis=0), strict=True):
            row[MEAN_RANK] = str(-rank)
    lines = []
    for score in (*SCORES, MEAN_RANK, "parameters"):
        taus, lost = [], []
        for sources in by_target.values():
            known = [row for row in sources if row[score]]
            truth = np.array([float(row["fine_tune"]) for row in known])
            values = np.array([float(row[score]) for row in known])
            if len(known) > 2 and len(set(values)) > 1:
                taus.append(float(weightedtau(values, truth).statistic))
                best = max(float(row["fine_tune"]) for row in sources)
                lost.append(100 * (best - float(truth[values.argmax()])))
        if taus:
            lines.append([score, str(len(taus)), f"{np.mean(taus):.2f}", _interval(lost)])
    chance = [
        100 * float(np.max(truth) - np.mean(truth))
        for truth in ([float(row["fine_tune"]) for row in s] for s in by_target.values())
    ]
    lines.append(["none: a source at random", str(len(chance)), "0", _interval(chance)])
    head = ["score", "targets", "weighted tau", "points lost by its choice"]
    return "## Ranking of sources\n\n" + _table(head, lines)


def _interval(points: list[float]) -> str:
    """Mean, and its 95 % interval over targets."""
    found = mean_interval(points)
    low, high = found.mean - found.half_width, found.mean + found.half_width
    return f"{found.mean:.1f} [{low:.1f}, {high:.1f}]"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
