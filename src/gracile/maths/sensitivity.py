"""How much of a layer can go, from scores of the model with that layer alone cut (Han et al. 2015, 1506.02626)."""

from collections.abc import Iterable


def tolerated(curve: Iterable[tuple[float, float]], baseline: float, largest_drop: float) -> float:
    """The last sparsity before the score has fallen by more than ``largest_drop`` below ``baseline``; 0 where none is.

    Args:
        curve: (sparsity, score), ascending in sparsity; it is read no further than to the first that falls too far.
    """
    found = 0.0
    for sparsity, score in curve:
        if baseline - score > largest_drop:
            break
        found = sparsity
    return found
