"""The transfer plan, scenarios, recipes, and the trees and optimizers derived from a plan."""

from tljax.transfer.optimizer import learning_rate_schedule
from tljax.transfer.partition import merge
from tljax.transfer.plan import TransferPlan
from tljax.transfer.recipes import Stage, gradual_unfreezing, lp_ft
from tljax.transfer.scenarios import (
    SCENARIOS,
    TEXTBOOK,
    discriminative,
    feature_extraction,
    fine_tune,
    freeze_first,
    from_scratch,
    surgical,
)

__all__ = [
    "SCENARIOS",
    "TEXTBOOK",
    "Stage",
    "TransferPlan",
    "discriminative",
    "feature_extraction",
    "fine_tune",
    "freeze_first",
    "from_scratch",
    "gradual_unfreezing",
    "learning_rate_schedule",
    "lp_ft",
    "merge",
    "surgical",
]
