"""tljax: transfer learning for vision in JAX. One plan decides what moves, and how fast."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

# Where each public name lives. They are imported on first use, so that the command line answers
# --help, a mistyped argument and Ctrl-C without waiting for JAX.
_HOMES = {
    "InputError": "tljax.errors",
    "Result": "tljax.training.loop",
    "TransferPlan": "tljax.transfer",
    "create": "tljax.models",
    "feature_extraction": "tljax.transfer",
    "features": "tljax.models",
    "fine_tune": "tljax.transfer",
    "fit": "tljax.training.loop",
    "freeze_first": "tljax.transfer",
    "from_scratch": "tljax.transfer",
    "load": "tljax.training.experiment",
    "merge": "tljax.transfer",
}

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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tljax' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
