"""Linear heads on kept features, solved to convergence, with an L2 penalty.

`solve` has the entrance, `solve_head`, and `problem` what the kinds of labels share. `softmax` is
for one class an image, `logistic` for several labels, `ridge` for numbers.
"""

from tljax.frozen.linear_head.problem import SolvedHead, strengths
from tljax.frozen.linear_head.solve import solve_head

__all__ = ["SolvedHead", "solve_head", "strengths"]
