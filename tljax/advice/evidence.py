"""What is known about a target and a source from features alone: `tljax advise`'s evidence."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tljax.advice import depths, distances, target
from tljax.advice.depths import Depth
from tljax.advice.neighbours import near_duplicates
from tljax.advice.textbook import similarity
from tljax.data import Dataset, Source, Subset
from tljax.data.sources import evenly_spaced
from tljax.experiment import Experiment
from tljax.models import parameter_count, tracing
from tljax.training.setup import new_variables
from tljax.transfer.partition import Tree

MOST_IMAGES = 2_000  # that are looked at; the probe of more would change little
_MEASURED = 100  # images whose height and width are asked for


@dataclass(frozen=True)
class Evidence:
    """What features say.

    Attributes:
      images, classes: of the target's training side.
      fewest, most: images of a class.
      naive_accuracy: of always answering the commonest class.
      looked_at: number of images whose features were computed.
      height_width: of the images, in pixels: the median of each.
      near_duplicates: how many of the images looked at nearly equal another one of them.
      between_splits: of the validation and the test images, where there are some, how many were
        looked at, no more than training images, and how many nearly equal one of those training
        images.
      parameters: of the network.
      pretrained, control: by depth, of the source's weights and of random ones.
      distances: from the source's own images, see `tljax.advice.distances`.
      no_distances: why there are none; else empty.
      source_images: how many images of the source's were looked at for them; 0: its statistics were
        kept.
    """

    images: int
    classes: int
    fewest: int
    most: int
    naive_accuracy: float
    looked_at: int
    height_width: tuple[int, int]
    near_duplicates: int
    parameters: int
    pretrained: list[Depth]
    control: list[Depth]
    distances: dict[str, float]
    no_distances: str
    between_splits: dict[str, tuple[int, int]] = field(default_factory=dict)
    source_images: int = 0

    @property
    def passes(self) -> int:
        """Forward passes of one image of the target that it took."""
        between = sum(looked_at for looked_at, _ in self.between_splits.values())
        return 2 * self.looked_at + between

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
        by_depth = {name: [depth._asdict() for depth in getattr(self, name)] for name in _BY_DEPTH}
        return vars(self) | by_depth


_BY_DEPTH = ("pretrained", "control")


def from_json(content: Mapping[str, Any]) -> Evidence:
    """The evidence of `Evidence.to_json`."""
    by_depth = {name: [Depth(**depth) for depth in content[name]] for name in _BY_DEPTH}
    between = {name: tuple(two) for name, two in content.get("between_splits", {}).items()}
    changed = {"height_width": tuple(content["height_width"]), "between_splits": between}
    return Evidence(**{**content, **by_depth, **changed})


def choose_images(dataset: Dataset) -> Source:
    """The training images to look at; InputError if they cannot be cross-validated."""
    most = max(MOST_IMAGES, 2 * dataset.num_classes)
    return target.choose_images(dataset, dataset.name, most, seed=0)


def variables_of(built: Experiment, pretrained: Tree) -> Tree:
    """The variables of a network with the source's weights and a new head."""
    variables: Tree = built.plan.initialise(_random_variables(built), pretrained)
    return variables


def _random_variables(built: Experiment) -> Tree:
    return new_variables(built.model, built.preprocessing.image_shape, built.options)


def gather(
    built: Experiment,
    dataset: Dataset,
    images: Source,
    pretrained: Tree,
    *,
    progress: bool = False,
) -> Evidence:
    """Gathers the evidence: two passes over the images, and solved heads.

    Of validation and test images only features are computed, and no label is read.

    Args:
      built: an experiment with the source's weights.
      dataset: the target.
      images: those to look at, of `choose_images`.
      pretrained: the source's weights.
      progress: whether to show progress on stderr.
    """

    def compute(weights: Tree, name: str, of: Source = images) -> dict[int, np.ndarray]:
        return depths.compute(built.model, weights, built.preprocessing, of, name, progress)

    def judge(x: dict[int, np.ndarray]) -> list[Depth]:
        return depths.judge(built.model, x, images, dataset.num_classes)

    counts = np.bincount(dataset.train.labels)
    shape = built.preprocessing.image_shape
    variables = variables_of(built, pretrained)
    x = compute(variables, "pretrained features")
    last = x[max(x)]
    between = {}
    for name, split in (("validation", dataset.val), ("test", dataset.test)):
        if split is not None:
            some = _some(split, len(images))
            of_split = compute(variables, f"features of {name} images", some)[max(x)]
            between[name] = (len(some), near_duplicates(of_split, among=last))
    away, why_not, source_images = distances.of_source(built.config.init_from, last, images.labels)
    return Evidence(
        images=len(dataset.train),
        classes=int((counts > 0).sum()),
        fewest=int(counts[counts > 0].min()),
        most=int(counts.max()),
        naive_accuracy=float(counts.max() / len(dataset.train)),
        looked_at=len(images),
        height_width=_median_size(images),
        near_duplicates=near_duplicates(last),
        parameters=parameter_count(tracing.abstract_variables(built.model, shape)["params"]),
        pretrained=judge(x),
        control=judge(compute(_random_variables(built), "random features")),
        distances=away,
        no_distances=why_not,
        between_splits=between,
        source_images=source_images,
    )


def _some(images: Source, most: int) -> Source:
    """At most `most` of the images, evenly spaced."""
    return Subset(images, evenly_spaced(len(images), most))


def _median_size(images: Source) -> tuple[int, int]:
    """Median height and width in pixels, of 100 images at most."""
    some = _some(images, _MEASURED)
    sizes = [some[row]["image"].shape[:2] for row in range(len(some))]
    height, width = np.median(sizes, axis=0)
    return round(height), round(width)
