"""Combines what is known about strategies, and chooses one."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tljax.advice.prior import Normal

INDIFFERENT = 0.005  # of accuracy: a strategy that is much cheaper is taken if it loses no more
MUCH_CHEAPER = 0.5  # of the best one's cost: what a strategy may cost that is taken in its place
CLOSE = 0.01  # of accuracy: how near to the best the choice is meant to be
_DRAWS = 20_000
# Of the gains of two strategies on a recorded target: .58 to .93 (small networks).
_CORRELATION = 0.7


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


def combine(prior: Normal, measured: Measured | None, fidelity: Normal) -> Normal:
    """The belief about a strategy's gain after a race: a product of two normal densities.

        combine(Normal(0.05, 0.05), None, Normal(0.0, 0.1))  # Normal(0.05, 0.05)

    Args:
      prior: from the record.
      measured: of a race; None: there was none.
      fidelity: by how much the gain of the whole run is above the race's: mean and deviation, but
        for the race's sampling.
    """
    if measured is None:
        return prior
    variance = fidelity.deviation**2 + measured.sampling
    whole = measured.gain + fidelity.mean
    precision = 1 / prior.deviation**2 + 1 / variance
    mean = (prior.mean / prior.deviation**2 + whole / variance) / precision
    return Normal(float(mean), float(precision**-0.5))


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
