"""A bound on bytes of the model in integers: what the methods before int8 may leave in floating point."""

import logging
from collections.abc import Callable

from torch import nn

from gracile.errors import TargetError
from gracile.graph import Graph, capture
from gracile.pipeline.clock import Clock
from gracile.pipeline.integers import Integers
from gracile.pipeline.request import Request

log = logging.getLogger(__name__)

# Tries to meet the bound, and how near is near enough.
_ATTEMPTS, _NEAR = 4, 0.98


def best_share(
    request: Request, graph: Graph, whole: int, bound: float, resized: Callable[[float], nn.Module], clock: Clock
) -> float:
    """The share of the bytes in floating point with which the integers come nearest to ``bound`` from below.

    What int8 leaves of a model is known without data.  It is nearly in proportion to the bytes in floating point, so
    that a few tries without fine-tuning find how many of those may stay.

    Args:
        whole: bytes of the original in integers.
        resized: a share -> the model with that share of its bytes, in floating point.

    Raises:
        TargetError: none comes near enough.
    """
    share, shares = bound / whole, dict[float, int]()
    for _ in range(_ATTEMPTS):
        try:
            model = resized(share)
        except TargetError as error:
            if _best(shares, bound) is not None:
                break
            raise TargetError(
                f"before int8 {share:.3g} of the bytes may be left, for {bound:.6g} bytes in the end: {error}"
            ) from error
        with clock("capture"):
            found = Integers(request, model, capture(model, graph.example)).cost.bytes
        log.info("%.3f of the bytes in floating point are %d bytes in integers, of %.6g", share, found, bound)
        repeated = found in shares.values()
        shares[share] = found
        if _NEAR * bound <= found <= bound or (repeated and _best(shares, bound) is not None):
            break
        slope = (whole - found) / (1 - share)
        share = min(0.999, max(0.2 * share, share + ((1 + _NEAR) / 2 * bound - found) / slope))
    best = _best(shares, bound)
    if best is None:
        raise TargetError(
            f"the target of {bound:.6g} bytes was not reached: {min(shares.values())} were left at best. Ways out: a "
            "higher target, a larger max_sparsity, fewer excluded layers, another method"
        )
    return best


def _best(shares: dict[float, int], bound: float) -> float | None:
    """The share that leaves the most within the bound."""
    within = [share for share, found in shares.items() if found <= bound]
    return max(within, key=lambda share: (shares[share], share), default=None)
