"""The multiple-choice knapsack: one option a row, largest total value within a budget."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

Floats = NDArray[np.float64]

# The largest difference of values in a row and the largest cost, in the units that HiGHS sees: it takes sums for equal
# that differ by 1e-6, and budgets for met that are missed by as much.  Where a solution misses one it also prints, past
# all options, that it solves again.
_SPREAD, _LARGEST = 1e4, 1e6


def choose(values: Sequence[Floats], costs: Sequence[Floats], budget: float) -> list[int] | None:
    """For each row the option to take, maximising the summed values with summed costs <= budget; None if none fits.

    The mixed-integer program max sum v_ij x_ij, sum_j x_ij = 1, sum c_ij x_ij <= B, x binary, solved exactly by
    HiGHS (Huangfu and Hall 2018, doi:10.1007/s12532-017-0130-5).
    """
    if sum(float(np.min(row)) for row in costs) > budget:
        return None
    sizes = [len(row) for row in values]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
    places = np.arange(starts[-1])
    one_each = csr_array((np.ones(starts[-1]), (np.repeat(np.arange(len(sizes)), sizes), places)))
    flat_costs = np.concatenate(costs).astype(float)
    spread = max(float(np.ptp(row)) for row in values) or 1.0
    flat_values = np.concatenate([(row - np.max(row)) * (_SPREAD / spread) for row in values])
    scale = max(float(flat_costs.max()), 1.0) / _LARGEST
    constraints = [
        LinearConstraint(one_each, 1, 1),
        LinearConstraint(flat_costs[None] / scale, -np.inf, budget / scale),
    ]
    while True:
        solution = milp(
            -flat_values,
            integrality=np.ones(starts[-1]),
            bounds=Bounds(0, 1),
            constraints=constraints,
            options={"mip_rel_gap": 0.0},
        )
        if solution.x is None:
            return [int(np.argmin(row)) for row in costs]
        chosen = [int(np.argmax(solution.x[start:end])) for start, end in pairwise(starts)]
        if sum(float(row[index]) for row, index in zip(costs, chosen, strict=True)) <= budget:
            return chosen
        # HiGHS admits violations up to its feasibility tolerance: forbid this one combination, ask again.
        picked = np.isin(places, starts[:-1] + np.array(chosen)).astype(float)
        constraints.append(LinearConstraint(picked[None], -np.inf, len(sizes) - 1))
