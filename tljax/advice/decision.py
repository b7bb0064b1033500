"""Combines what is known about strategies, and chooses one."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tljax.advice.prior import Covariates, Normal, Prior
from tljax.advice.strategies import PROBE

INDIFFERENT = 0.005  # of accuracy: a strategy that is much cheaper is taken if it loses no more
MUCH_CHEAPER = 0.5  # of the best one's cost: what a strategy may cost that is taken in its place
CLOSE = 0.01  # of accuracy: how near to the best the choice is meant to be
_DRAWS = 20_000
# Of the gains of two strategies on a recorded target: .58 to .93 (small networks).
_CORRELATION = 0.7
# Of two strategies' answers less the same probe's, each right on the same images as another about
# half the time.
_OF_ONE_PROBE = 0.5


class Measured(NamedTuple):
    """What a short race measured of a strategy.

    Attributes:
      gain: accuracy on the images left out, minus the probe's on the same.
      images: number of them.
      accuracy: of the strategy on them.
      length: share of the whole run's steps.
    """

    gain: float
    images: int
    accuracy: float
    length: float

    @property
    def sampling(self) -> float:
        """Variance of the gain by the choice of the images.

        It is that of a difference between two answers to the same images, which are right on the
        same ones about half the time.
        """
        rate = float(np.clip(self.accuracy, 0.05, 0.95))
        return rate * (1 - rate) / self.images


class Choice(NamedTuple):
    """A strategy that was chosen.

    Attributes:
      name: of the strategy; `runner_up`: of the next best.
      sureness: probability that no strategy is better by more than `CLOSE`.
      best: the strategy with the highest expected accuracy, if another one is chosen, which
        is much cheaper.
    """

    name: str
    runner_up: str
    sureness: float
    best: str


def believe(
    prior: Prior,
    kind: str,
    known: Covariates,
    names: Iterable[str],
    raced: Mapping[str, Measured],
    probe: float,
) -> dict[str, Normal]:
    """Beliefs about the gain of each strategy over the probe, whose own is 0.

    Args:
      prior: of the record.
      kind: of the network.
      known: about the target.
      names: of the strategies to judge; of those that the record does not know nothing is believed.
      raced: what races measured; of a strategy the longest.
      probe: accuracy of the probe, by cross-validation.
    """
    lines = prior.gains.get(kind, {})
    expected = {name: lines[name].at(known) for name in names if name in lines}
    fidelities = {name: prior.fidelity(kind, name, one.length) for name, one in raced.items()}
    gains = update(expected, raced, fidelities)
    return {PROBE: Normal(0.0, 1e-6)} | {name: within(gain, probe) for name, gain in gains.items()}


def update(
    expected: Mapping[str, Normal],
    raced: Mapping[str, Measured],
    fidelities: Mapping[str, Normal],
) -> dict[str, Normal]:
    """The beliefs about all gains after races; those that did not race move with those that did.

    Gains are high or low together. So are their measurements by chance, as all races of a target
    are compared with the same answers of the probe. It is a normal density of several variables,
    given a measurement of some (Bishop 2006, "Pattern Recognition and Machine Learning", (2.116)).

        update({"fine_tune": Normal(0.05, 0.05)}, {}, {})  # {"fine_tune": Normal(0.05, 0.05)}

    Args:
      expected: of each strategy but the probe, from the record.
      raced: what races measured; of a strategy the longest.
      fidelities: of each that raced: by how much the gain of the whole run is above the race's,
        mean and deviation, but for the race's sampling.
    """
    names, races = list(expected), [name for name in expected if name in raced]
    if not races:
        return dict(expected)
    mean, deviation = np.array(list(expected.values())).T
    before = _together(deviation, _CORRELATION)
    rows = [names.index(name) for name in races]
    whole = np.array([raced[name].gain + fidelities[name].mean for name in races])
    noise = _together(np.sqrt([raced[name].sampling for name in races]), _OF_ONE_PROBE)
    noise += np.diag([fidelities[name].deviation ** 2 for name in races])
    weight = np.linalg.solve(before[np.ix_(rows, rows)] + noise, before[rows]).T
    mean = mean + weight @ (whole - mean[rows])
    variance = np.diag(before - weight @ before[rows])
    return {
        name: Normal(float(m), float(np.sqrt(v)))
        for name, m, v in zip(names, mean, variance, strict=True)
    }


def _together(deviation: np.ndarray, correlation: float) -> np.ndarray:
    """The covariance of variables that all have the same correlation with each other."""
    own = (1 - correlation) * np.eye(len(deviation))
    return np.outer(deviation, deviation) * (correlation + own)


def choose(gains: Mapping[str, Normal], costs: Mapping[str, float], seed: int = 0) -> Choice:
    """Chooses the highest expected gain, or what loses next to nothing at half its cost or less.

    Args:
      gains: of each strategy over the probe, whose own is 0.
      costs: of each, in any unit.
      seed: of the draws that tell how sure the choice is.
    """
    ranked = sorted(gains, key=lambda name: -gains[name].mean)
    best = ranked[0]
    cheaper = [
        name
        for name in ranked
        if gains[best].mean - gains[name].mean <= INDIFFERENT
        and costs[name] <= MUCH_CHEAPER * costs[best]
    ]
    chosen = min(cheaper, key=costs.__getitem__, default=best)
    rest = [name for name in ranked if name != chosen]
    draws = _draw([gains[name] for name in ranked], seed)
    sure = float(np.mean(draws.max(axis=0) - draws[ranked.index(chosen)] <= CLOSE))
    return Choice(chosen, rest[0] if rest else chosen, sure, best)


def _draw(beliefs: Sequence[Normal], seed: int) -> np.ndarray:
    """(strategies, draws): gains that the beliefs allow, which are high or low together."""
    rng = np.random.default_rng(seed)
    means, deviations = np.array(beliefs).T
    own = rng.standard_normal((len(means), _DRAWS)) * np.sqrt(1 - _CORRELATION)
    shared = rng.standard_normal(_DRAWS) * np.sqrt(_CORRELATION)
    return means[:, None] + deviations[:, None] * (own + shared)


def within(gain: Normal, probe: float) -> Normal:
    """The belief about a gain over a probe, which has no more errors to avoid than it makes.

        within(Normal(0.05, 0.04), probe=0.98)  # Normal(0.02, 0.04)

    Args:
      gain: of a strategy.
      probe: accuracy of the probe, by cross-validation.
    """
    return Normal(min(gain.mean, 1 - probe), gain.deviation)


def interval(belief: Normal, share: float = 0.9) -> tuple[float, float]:
    """Where an accuracy lies with a probability of `share`, cut at 0 and 1."""
    from scipy.stats import norm

    reach = float(norm.ppf(0.5 + share / 2)) * belief.deviation
    return max(0.0, belief.mean - reach), min(1.0, belief.mean + reach)
