"""Selections between two others: they are tried where the table of layers does not tell apart what measures apart."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from gracile.pipeline.selection import Selection
from gracile.search.problem import Column


@dataclass(frozen=True, eq=False)
class Between:
    """The way from one selection to another: part after part, each by a level a step.

    Neighbours on it differ by one level of one part, so that where times at its ends lie on two sides of a bound, two
    neighbours do, too; a kernel that likes one size much better than the next is a step of one part alone.

    Args:
        first: where it begins.
        last: where it ends.
        columns: the parts, in the order in which they go over; parts that are not among them stay as in ``first``.
        ratio: what is left of a part at a level.
    """

    first: Selection
    last: Selection
    columns: tuple[Column, ...]
    ratio: Callable[[Column, int], float]

    @property
    def steps(self) -> int:
        """Steps from ``first``, which is at 0, to ``last``."""
        return sum(abs(end - start) for start, end in self._ends())

    def levels(self, step: int) -> tuple[int, ...]:
        """The level of each column behind ``step`` steps, from 0 to `steps`."""
        found = []
        for start, end in self._ends():
            moved = min(step, abs(end - start))
            step -= moved
            found.append(start + moved if end > start else start - moved)
        return tuple(found)

    def at(self, step: int) -> Selection:
        """The selection behind ``step`` steps."""
        sizes, asked = dict(self.first.sizes), dict(self.first.asked)
        for column, level, (start, _) in zip(self.columns, self.levels(step), self._ends(), strict=True):
            if level == start:
                continue
            asked[column.layer] = self.ratio(column, level)
            if level == column.dense:
                del sizes[column.layer]
            else:
                sizes[column.layer] = int(column.sizes[level])
        return replace(self.first, sizes=sizes, asked=asked)

    def _ends(self) -> list[tuple[int, int]]:
        """The levels of each column in ``first`` and ``last``."""
        return [(_level(column, self.first), _level(column, self.last)) for column in self.columns]


def _level(column: Column, selection: Selection) -> int:
    size = selection.sizes.get(column.layer)
    return column.dense if size is None else column.level_of(size)
