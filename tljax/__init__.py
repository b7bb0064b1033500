"""tljax: transfer learning for vision in JAX. One plan decides what moves, and how fast."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tljax.errors import InputError
    from tljax.experiment import load
    from tljax.models import create, features
    from tljax.models.lora import merge_lora
    from tljax.training.fit import fit
    from tljax.training.result import Result
    from tljax.training.stages import fit_stages
    from tljax.transfer import (
        Stage,
        TransferPlan,
        discriminative,
        feature_extraction,
        fine_tune,
        freeze_first,
        from_scratch,
        gradual_unfreezing,
        lp_ft,
        merge,
        surgical,
    )
    from tljax.transfer.nnx import to_nnx

# Where each public name lives. They are imported on first use, so that the command line answers
# --help, a mistyped argument and Ctrl-C without waiting for JAX.
_HOMES = {
    "InputError": "tljax.errors",
    "Result": "tljax.training",
    "Stage": "tljax.transfer",
    "TransferPlan": "tljax.transfer",
    "create": "tljax.models",
    "discriminative": "tljax.transfer",
    "feature_extraction": "tljax.transfer",
    "features": "tljax.models",
    "fine_tune": "tljax.transfer",
    "fit": "tljax.training",
    "fit_stages": "tljax.training.stages",
    "freeze_first": "tljax.transfer",
    "from_scratch": "tljax.transfer",
    "gradual_unfreezing": "tljax.transfer",
    "load": "tljax.experiment",
    "lp_ft": "tljax.transfer",
    "merge": "tljax.transfer",
    "merge_lora": "tljax.models.lora",
    "surgical": "tljax.transfer",
    "to_nnx": "tljax.transfer.nnx",
}

__all__ = [
    "InputError",
    "Result",
    "Stage",
    "TransferPlan",
    "create",
    "discriminative",
    "feature_extraction",
    "features",
    "fine_tune",
    "fit",
    "fit_stages",
    "freeze_first",
    "from_scratch",
    "gradual_unfreezing",
    "load",
    "lp_ft",
    "merge",
    "merge_lora",
    "surgical",
    "to_nnx",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tljax' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
