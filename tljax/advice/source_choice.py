"""Chooses source models by the prior and by the probe, and says why."""

from dataclasses import dataclass

import numpy as np

from tljax.advice.ranking import Ranking, Scored
from tljax.frozen.cross_validation import within_noise


@dataclass(frozen=True)
class SourceChoice:
    """Which source models to try.

    Attributes:
      by_prior: the model with the best published accuracy; None if none is known.
      by_probe: of `tied` the one that the other scores rank highest in the mean; of equals the
        smallest, and of these the one with the best probe.
      best_probe: the model with the best cross-validated probe.
      tied: the models whose probes are as accurate as the best, within one standard error.
      level: those of `tied` that the other scores rank as high as `by_probe`, itself included.
      unknown: number of models without a published accuracy.
    """

    by_prior: Scored | None
    by_probe: Scored
    best_probe: Scored
    tied: tuple[Scored, ...]
    level: tuple[Scored, ...]
    unknown: int

    @property
    def to_try(self) -> tuple[Scored, ...]:
        """The prior's best and the probe's best, or the one that is both."""
        if self.by_prior is None or self.by_prior is self.by_probe:
            return (self.by_probe,)
        return self.by_prior, self.by_probe

    def to_json(self) -> dict[str, object]:
        return {
            "try": [model.candidate.name for model in self.to_try],
            "by_prior": None if self.by_prior is None else self.by_prior.candidate.name,
            "by_probe": self.by_probe.candidate.name,
            "best_probe": self.best_probe.candidate.name,
            "tied": [model.candidate.name for model in self.tied],
            "reason": " ".join(describe(self)),
        }


def choose(ranking: Ranking) -> SourceChoice:
    """Chooses by the hybrid of Renggli et al. 2022: the prior's best and the probe's best.

    "Which Model to Transfer? Finding the Needle in the Growing Haystack", section 4.3: on 19
    targets, published accuracy alone and a linear probe alone each miss a good model now and then;
    fine-tuning the best of both rarely does. Probes within one standard error of the best, that of
    the difference on the same images, are a tie; of these the model is taken that the other scores
    rank highest in the mean, which lost less than the probe or the size alone in
    experiments/advice.

        choice = choose(rank("folder:PETS", find_candidates(["resnet50.*"])))
        names = [model.candidate.name for model in choice.to_try]
    """
    models = ranking.models
    right = np.array([model.right for model in models], np.float64)
    weights = np.full(right.shape[1], 1 / right.shape[1])
    places = np.flatnonzero(within_noise(right, weights)).tolist()
    ranks = ranking.mean_ranks(without="probe")
    best = min(
        places, key=lambda at: (ranks[at], models[at].parameters, -models[at].scores["probe"])
    )
    published = [model for model in models if model.candidate.top1 is not None]
    return SourceChoice(
        max(published, key=_published, default=None),
        models[best],
        max(models, key=lambda model: model.scores["probe"]),
        tuple(models[at] for at in places),
        tuple(models[at] for at in places if ranks[at] == ranks[best]),
        len(models) - len(published),
    )


def describe(choice: SourceChoice) -> list[str]:
    """Returns sentences that say which models to try, and why."""
    probe, prior = choice.by_probe, choice.by_prior
    accuracy = f"{_percent(probe)} by cross-validated linear probes"
    if prior is None:
        said = [
            "No published accuracy is known of these models, so the probe alone chooses:"
            f" {probe.candidate.name} ({accuracy})."
        ]
    elif prior is probe:
        said = [
            f"Published accuracy and the probe choose the same model: {probe.candidate.name}"
            f" ({_published(prior):.1f} % on ImageNet, {accuracy})."
        ]
    else:
        said = [
            f"Fine-tune two models and keep the one with the better validation accuracy:"
            f" {prior.candidate.name}, which has the best published accuracy"
            f" ({_published(prior):.1f} % on ImageNet), and {probe.candidate.name}, which the probe"
            f" chooses ({accuracy}; {_percent(prior)} for the other)."
        ]
    if prior is not None and choice.unknown:
        are = "is" if choice.unknown == 1 else "are"
        said.append(f"Of {choice.unknown} of the models no published accuracy {are} known.")
    return said + _describe_tie(choice)


def _describe_tie(choice: SourceChoice) -> list[str]:
    if len(choice.tied) < 2:
        return []
    names = [model.candidate.name for model in choice.tied]
    best = choice.best_probe
    return [
        f"{', '.join(names[:-1])} and {names[-1]} tie: their probes are at most one standard error"
        f" of the difference below the best, {best.candidate.name} ({_percent(best)})."
        f" {_why_of_the_tied(choice)}"
    ]


def _why_of_the_tied(choice: SourceChoice) -> str:
    name, size = choice.by_probe.candidate.name, choice.by_probe.parameters
    if len(choice.level) == 1:
        return f"{name} is ahead of them in the mean of the other scores' ranks."
    ahead = len(choice.level) < len(choice.tied)
    them = "those that lead in the mean of the other scores' ranks" if ahead else "them"
    smallest = sum(model.parameters == size for model in choice.level)
    what = "the fewest parameters" if smallest == 1 else "the best probe among the smallest"
    return f"Of {them}, {name} has {what}."


def _published(model: Scored) -> float:
    return -np.inf if model.candidate.top1 is None else model.candidate.top1


def _percent(model: Scored) -> str:
    """Accuracy of the probe, with its standard error."""
    accuracy = model.scores["probe"]
    error = np.sqrt(accuracy * (1 - accuracy) / len(model.right))
    return f"{100 * accuracy:.1f} ± {100 * error:.1f} %"
