"""Training: state, compiled steps, the loop, checkpoints and metrics."""

from tljax.training.loop import Result, fit
from tljax.training.options import TrainingOptions

__all__ = ["Result", "TrainingOptions", "fit"]
