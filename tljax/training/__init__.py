"""Training: what a run is made of, its state, its compiled step, the loop, its result."""

from tljax.training.fit import fit
from tljax.training.options import TrainingOptions
from tljax.training.result import Result

__all__ = ["Result", "TrainingOptions", "fit"]
