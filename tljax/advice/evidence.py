"""What is known about a target and a source from features alone: `tljax advise`'s evidence."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tljax.advice import depths
from tljax.advice.depths import Depth
from tljax.advice.textbook import similarity
from tljax.data import Dataset, Subset
from tljax.data.splits import stratified_order
from tljax.errors import InputError
from tljax.experiment import Experiment
from tljax.models import parameter_count, tracing
from tljax.training.setup import new_variables
from tljax.transfer.partition import Tree

MOST_IMAGES = 2_000  # that are looked at; the probe of more would change little
LEAST_OF_A_CLASS = 2


@dataclass(frozen=True)
class Evidence:
    """What features say.

    Attributes:
      images, classes: of the target's training side.
      fewest, most: images of a class.
      naive_accuracy: of always answering the commonest class.
      looked_at: number of images whose features were computed.
      parameters: of the network.
      pretrained, control: by depth, of the source's weights and of random ones.
    """

    images: int
    classes: int
    fewest: int
    most: int
    naive_accuracy: float
    looked_at: int
    parameters: int
    pretrained: list[Depth]
    control: list[Depth]

    @property
    def probe(self) -> float:
        """Accuracy of the probe of the last features."""
        return self.pretrained[-1].probe

    @property
    def similarity(self) -> float:
        """See `tljax.advice.textbook.similarity`; each network at its best depth."""
        best, control = (max(d.probe for d in some) for some in (self.pretrained, self.control))
        return similarity(best, control)

    def to_json(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "pretrained": [depth._asdict() for depth in self.pretrained],
            "control": [depth._asdict() for depth in self.control],
        }


_PLAIN = (*("images", "classes", "fewest", "most", "naive_accuracy", "looked_at", "parameters"),)


def from_json(content: dict[str, Any]) -> Evidence:
    """The evidence of `Evidence.to_json`."""
    by_depth: dict[str, Any] = {
        name: [Depth(**depth) for depth in content[name]] for name in ("pretrained", "control")
    }
    return Evidence(**{name: content[name] for name in _PLAIN} | by_depth)


def check(dataset: Dataset) -> None:
    """Raises InputError if the target's training images cannot be cross-validated."""
    counts = np.bincount(dataset.train.labels, minlength=dataset.num_classes)
    present = counts[counts > 0]
    if len(present) < 2:
        raise InputError(
            f"all {len(dataset.train):,} training images of '{dataset.name}' are of one class, so"
            " there is nothing to advise; give images of two classes or more"
        )
    if present.min() < LEAST_OF_A_CLASS:
        raise InputError(
            f"{(present < LEAST_OF_A_CLASS).sum()} of {len(present)} classes of '{dataset.name}'"
            " have a single training image, which cross-validation cannot hold out; add images"
        )


def variables_of(built: Experiment, pretrained: Tree) -> Tree:
    """The variables of a network with the source's weights and a new head."""
    variables: Tree = built.plan.initialise(_random_variables(built), pretrained)
    return variables


def _random_variables(built: Experiment) -> Tree:
    return new_variables(built.model, built.preprocessing.image_size, built.options)


def gather(
    built: Experiment, dataset: Dataset, pretrained: Tree, *, progress: bool = False
) -> tuple[Evidence, np.ndarray]:
    """Gathers the evidence: two passes over the images, and solved heads.

    Args:
      built: an experiment with the source's weights.
      dataset: the target, whose training images alone are looked at.
      pretrained: the source's weights.
      progress: whether to show progress on stderr.

    Returns:
      The evidence; and (images,), which of the training images were looked at.
    """
    check(dataset)
    labels = dataset.train.labels
    rows = stratified_order(labels, np.random.default_rng(0))[:MOST_IMAGES]
    counts = np.bincount(labels[rows])
    rows = np.sort(rows[counts[labels[rows]] >= LEAST_OF_A_CLASS])
    some = Subset(dataset.train, rows)
    found = {}
    for name, weights in (
        ("pretrained", variables_of(built, pretrained)),
        ("random", _random_variables(built)),
    ):
        x = depths.compute(
            built.model, weights, built.preprocessing, some, f"{name} features", progress
        )
        found[name] = depths.judge(built.model, x, some.labels, dataset.num_classes)
    counts = np.bincount(labels)
    size = built.preprocessing.image_size
    return (
        Evidence(
            images=len(labels),
            classes=int((counts > 0).sum()),
            fewest=int(counts[counts > 0].min()),
            most=int(counts.max()),
            naive_accuracy=float(counts.max() / len(labels)),
            looked_at=len(rows),
            parameters=parameter_count(tracing.abstract_variables(built.model, size)["params"]),
            pretrained=found["pretrained"],
            control=found["random"],
        ),
        rows,
    )
