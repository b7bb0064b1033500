"""What recorded studies say about a target: by how much each strategy beats the solved probe.

Of every strategy and kind of network the gain over the probe is a linear function of what is known
about the target, fitted by Bayesian ridge regression (Bishop 2006, "Pattern Recognition and Machine
Learning", section 3.3): with few recorded data sets the slopes stay near 0, and the spread of the
predictions says how little is known. `experiments/advice` makes the record and fits `prior.json`.
"""

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from tljax.advice.strategies import NAMES, PROBE

KINDS = ("small", "large")  # networks with fewer than a million parameters, and others
_SLOPES = 4.0  # prior precision of the slopes, in units of the noise's
_LEAST_NOISE = 0.01  # deviation that is never believed to be smaller
_USUAL_NOISE = 0.05  # deviation of gains before any is seen, which counts as `_BELIEVED` data sets
_BELIEVED = 3.0


class Covariates(NamedTuple):
    """What is known about a target, from features alone.

    Attributes:
      images: number of training images, log10 of it over 100.
      headroom: 1 - accuracy of the probe, by cross-validation.
      similarity: see `tljax.advice.textbook.similarity`.
    """

    images: float
    headroom: float
    similarity: float


class Normal(NamedTuple):
    """A belief about an accuracy or a gain: mean and deviation."""

    mean: float
    deviation: float


class Recorded(NamedTuple):
    """A target of the record.

    Attributes:
      kind: of the network, of `KINDS`.
      root: the data set that the target is a part of.
      covariates: of the target.
      out_of_fold: accuracy of the probe by cross-validation.
      accuracies: test accuracy of each strategy, by its name; the probe's is among them.
      raced: {(strategy, length): gain over the probe in a race, and the deviation by sampling}.
      distances: from the source's own images, see `tljax.advice.distances`.
    """

    kind: str
    root: str
    covariates: Covariates
    out_of_fold: float
    accuracies: Mapping[str, float]
    raced: Mapping[tuple[str, float], Normal] = {}
    distances: Mapping[str, float] = {}


_UNKNOWN_FIDELITY = Normal(0.0, 0.1)


class Fit(NamedTuple):
    """A fitted line: coefficients of (1, covariates), their covariance, the noise's deviation."""

    mean: list[float]
    covariance: list[list[float]]
    noise: float
    targets: int

    def at(self, covariates: Covariates) -> Normal:
        """The belief about a new target."""
        x = _design([covariates])[0]
        variance = x @ np.array(self.covariance) @ x + self.noise**2
        return Normal(float(x @ np.array(self.mean)), float(np.sqrt(variance)))


class Prior(NamedTuple):
    """Of each kind of network: the gain of each strategy, and the test accuracy's own offset.

    Attributes:
      gains: {kind: {strategy: line}}.
      offsets: {kind: belief}: test accuracy of the probe minus that by cross-validation.
      similarities: {kind: of each recorded target}, for percentiles.
      fidelities: {kind: {"strategy length": belief}}: by how much the gain of a whole run is above
        that of a race.
      distances: {kind: {name: of each recorded target}}, for percentiles.
    """

    gains: dict[str, dict[str, Fit]]
    offsets: dict[str, Normal]
    similarities: dict[str, list[float]]
    fidelities: dict[str, dict[str, Normal]]
    distances: dict[str, dict[str, list[float]]]

    def fidelity(self, kind: str, strategy: str, length: float) -> Normal:
        """By how much the gain of a whole run is above a race's; wide where none is recorded."""
        return self.fidelities.get(kind, {}).get(f"{strategy} {length}", _UNKNOWN_FIDELITY)

    def to_json(self) -> dict[str, Any]:
        return {
            "gains": {
                kind: {name: line._asdict() for name, line in lines.items()}
                for kind, lines in self.gains.items()
            },
            "offsets": {kind: list(offset) for kind, offset in self.offsets.items()},
            "similarities": self.similarities,
            "fidelities": {
                kind: {name: list(belief) for name, belief in beliefs.items()}
                for kind, beliefs in self.fidelities.items()
            },
            "distances": self.distances,
        }


def from_json(content: Mapping[str, Any]) -> Prior:
    """The prior of `Prior.to_json`."""
    gains = {
        kind: {name: Fit(**line) for name, line in lines.items()}
        for kind, lines in content["gains"].items()
    }
    offsets = {kind: Normal(*offset) for kind, offset in content["offsets"].items()}
    fidelities = {
        kind: {name: Normal(*belief) for name, belief in beliefs.items()}
        for kind, beliefs in content["fidelities"].items()
    }
    similarities, distances = dict(content["similarities"]), dict(content["distances"])
    return Prior(gains, offsets, similarities, fidelities, distances)


@functools.cache
def recorded() -> Prior:
    """The prior that comes with tljax, fitted on the whole record."""
    text = resources.files(__package__).joinpath("prior.json").read_text(encoding="utf-8")
    return from_json(json.loads(text))


def covariates_of(images: int, probe: float, similarity: float) -> Covariates:
    """The covariates of a target; see `Covariates` for what they are."""
    return Covariates(float(np.log10(images / 100)), 1 - probe, similarity)


def kind_of(parameters: int) -> str:
    """The kind of a network by its number of parameters."""
    return KINDS[0] if parameters < 1e6 else KINDS[1]


def fit(targets: Iterable[Recorded]) -> Prior:
    """Fits the prior.

    Targets of one root data set are alike: together they weigh as one or, of several sizes, as a
    little more, so that a data set with many rows does not decide alone.
    """
    everything = list(targets)
    gains: dict[str, dict[str, Fit]] = {}
    offsets: dict[str, Normal] = {}
    similarities: dict[str, list[float]] = {}
    fidelities: dict[str, dict[str, Normal]] = {}
    distances: dict[str, dict[str, list[float]]] = {}
    for kind in KINDS:
        of_kind = [target for target in everything if target.kind == kind]
        if not of_kind:
            continue
        gains[kind] = {}
        for name in NAMES:
            known = [target for target in of_kind if name in target.accuracies]
            if name != PROBE and len({target.root for target in known}) > 1:
                differences = [t.accuracies[name] - t.accuracies[PROBE] for t in known]
                gains[kind][name] = _fit_line(known, np.array(differences))
        known = [target for target in of_kind if PROBE in target.accuracies]
        weights = _weights(known)
        offset = np.array([t.accuracies[PROBE] - t.out_of_fold for t in known])
        mean = float(np.average(offset, weights=weights))
        spread = float(np.sqrt(np.average((offset - mean) ** 2, weights=weights)))
        roots = len({target.root for target in known})
        offsets[kind] = Normal(mean, max(_LEAST_NOISE, float(spread * np.sqrt(1 + 2 / roots))))
        similarities[kind] = sorted(target.covariates.similarity for target in of_kind)
        fidelities[kind] = _fidelities(of_kind)
        names = sorted({name for target in of_kind for name in target.distances})
        distances[kind] = {
            name: sorted(t.distances[name] for t in of_kind if name in t.distances)
            for name in names
        }
    return Prior(gains, offsets, similarities, fidelities, distances)


def _fidelities(targets: Sequence[Recorded]) -> dict[str, Normal]:
    """Of each strategy and length: mean and spread of the whole run's gain minus the race's.

    The spread is what to expect of another data set: as in `_fit_line`, few of them make it appear
    too small. That by the sampling of races is left out, since a new race has its own.
    """
    found = {}
    for name, length in sorted({race for target in targets for race in target.raced}):
        known = [t for t in targets if (name, length) in t.raced and name in t.accuracies]
        if len({target.root for target in known}) > 1:
            above = np.array(
                [
                    t.accuracies[name] - t.accuracies[PROBE] - t.raced[name, length].mean
                    for t in known
                ]
            )
            sampling = np.array([t.raced[name, length].deviation ** 2 for t in known])
            weights = _weights(known)
            mean = float(np.average(above, weights=weights))
            roots = len({target.root for target in known})
            squares = (above - mean) ** 2
            whole = np.average(squares, weights=weights)
            beyond = max(0.0, 1 - np.average(sampling, weights=weights) / whole) if whole else 0.0
            noise = _noise(beyond * squares, weights, roots, spent=1.0)
            found[f"{name} {length}"] = Normal(mean, noise * float(np.sqrt(1 + 1 / roots)))
    return found


def _noise(squares: np.ndarray, weights: np.ndarray, roots: int, spent: float) -> float:
    """Deviation of what is fitted from the recorded, with a belief that counts as some data sets.

    Args:
      squares: of the residuals; weights: of `_weights`.
      roots: number of data sets; `spent`: how many of them the fitted numbers take up.
    """
    residual = np.average(squares, weights=weights)
    degrees = max(0.0, roots - spent) + _BELIEVED
    return float(np.sqrt((residual * roots + _BELIEVED * _USUAL_NOISE**2) / degrees))


def _fit_line(targets: Sequence[Recorded], gains: np.ndarray) -> Fit:
    """Bayesian ridge regression of gains, each root data set with the same weight."""
    x, weights = _design([target.covariates for target in targets]), _weights(targets)
    penalty = np.diag([1e-3, *[_SLOPES] * (x.shape[1] - 1)])
    inverse = np.linalg.inv((x.T * weights) @ x + penalty)
    mean = inverse @ (x.T * weights) @ gains
    roots = len({target.root for target in targets})
    # few data sets make the residuals too small: one is spent on the mean, and part on the slopes
    noise = _noise((gains - x @ mean) ** 2, weights, roots, spent=1.5)
    return Fit(mean.tolist(), (noise**2 * inverse).tolist(), noise, len(targets))


def _weights(targets: Sequence[Recorded]) -> np.ndarray:
    """(targets,): the square root of a root's number of targets in all, shared evenly."""
    roots = [target.root for target in targets]
    return np.array([roots.count(root) ** -0.5 for root in roots])


def _design(covariates: Sequence[Covariates]) -> np.ndarray:
    """(targets, 4): 1, and covariates about 0 that are about as large as 1."""
    x = np.array(covariates, dtype=float)
    return np.column_stack([np.ones(len(x)), x[:, 0], 2 * (x[:, 1] - 0.4), 2 * (x[:, 2] - 0.2)])
