"""The textbook's two by two: size of the target, and its similarity to the source."""

from typing import NamedTuple

SMALL = 1_000  # training images; below, the textbook calls a target small
_SIMILAR = 0.3  # see `similarity`


class Advice(NamedTuple):
    """What the textbook says of a target.

    Attributes:
      strategy: a name of `tljax.advice.strategies`.
      is_small, is_similar: where the target stands.
    """

    strategy: str
    is_small: bool
    is_similar: bool


def similarity(probe: float, control: float) -> float:
    """How much pretraining helps a linear head: the share of the control's errors that it avoids.

        similarity(probe=0.9, control=0.6)  # 0.75

    1: all errors; 0 or less: pretrained features are no better than those of random weights.

    Args:
      probe: accuracy with the pretrained network, by cross-validation, at its best depth.
      control: the same with random weights.
    """
    return (probe - control) / (1 - control) if control < 1 else 0.0


def advise(images: int, similar: float) -> Advice:
    """What the textbook says of a target.

        advise(images=300, similar=0.6).strategy  # 'feature_extraction'

    Args:
      images: number of training images.
      similar: of `similarity`.
    """
    small, is_similar = images < SMALL, similar >= _SIMILAR
    strategy = {
        (True, True): "feature_extraction",
        (True, False): "freeze_first",
        (False, False): "from_scratch",
        (False, True): "fine_tune",
    }[small, is_similar]
    return Advice(strategy, small, is_similar)
