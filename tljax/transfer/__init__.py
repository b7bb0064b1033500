"""The plan, the four scenarios, and what is derived from a plan: pure functions of trees."""

from tljax.transfer.optimizer import learning_rate_schedule
from tljax.transfer.partition import merge
from tljax.transfer.plan import TransferPlan
from tljax.transfer.scenarios import (
    SCENARIOS,
    feature_extraction,
    fine_tune,
    freeze_first,
    from_scratch,
)

__all__ = [
    "SCENARIOS",
    "TransferPlan",
    "feature_extraction",
    "fine_tune",
    "freeze_first",
    "from_scratch",
    "learning_rate_schedule",
    "merge",
]
