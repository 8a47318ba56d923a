"""What a method that others follow does where it cannot reach its own part of the target."""

from collections.abc import Callable
from dataclasses import replace

from gracile.errors import TargetError
from gracile.pipeline.selection import Selection

# How often it is asked for half as much.
_RETREATS = 4


def as_far_as_it_goes(method: str, measure: str, asked: float, select: Callable[[float], Selection]) -> Selection:
    """The selection for the share ``asked``, or for one of which it can save half, a quarter, and so on; none else.

    Args:
        measure: what shares are of, for the notes.
        select: a share -> the selection; raises TargetError where that is out of reach.
    """
    share = asked
    for _ in range(_RETREATS):
        try:
            selection = select(share)
        except TargetError:
            share = (1 + share) / 2
            continue
        if share == asked:
            return selection
        left = f"{method} leaves {share:.3g} of the {measure} where its share was {asked:.3g}"
        return replace(selection, notes=(*selection.notes, f"{left}: the methods after it take the rest"))
    note = f"{method} saves next to none of the {measure}; the methods after it take the rest"
    return Selection(sizes={}, asked={}, notes=(note,))
