"""tljax: transfer learning for vision in JAX. One plan decides what moves, and how fast."""

from tljax.errors import InputError
from tljax.models import create, features
from tljax.training.experiment import load
from tljax.training.loop import Result, fit
from tljax.transfer import (
    TransferPlan,
    feature_extraction,
    fine_tune,
    freeze_first,
    from_scratch,
    merge,
)

__all__ = [
    "InputError",
    "Result",
    "TransferPlan",
    "create",
    "feature_extraction",
    "features",
    "fine_tune",
    "fit",
    "freeze_first",
    "from_scratch",
    "load",
    "merge",
]
