"""How much answers know, however sure they are of themselves.

Networks that were fine-tuned on few images are far surer of their answers than they may be, and
have a high loss although they are right more often. One number mends it (Guo et al. 2017, "On
calibration of modern neural networks", section 4.2): all logits are divided by a temperature, which
moves no answer.
"""

from collections.abc import Callable

import numpy as np

SMALLEST = 1e-7  # probability, so that no logarithm is infinite
_REACH = 3.0  # of the logarithm of a temperature, from 1/20 to 20


def least_loss(loss_at: Callable[[float], float]) -> float:
    """Returns the least mean loss that a temperature gives.

        least_loss(lambda temperature: (temperature - 2) ** 2)  # 0

    Args:
      loss_at: the mean loss with logits that are divided by a temperature.
    """
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda log: loss_at(float(np.exp(log))), bounds=(-_REACH, _REACH), method="bounded"
    )
    return float(found.fun)
