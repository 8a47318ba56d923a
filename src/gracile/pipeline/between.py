"""Selections between two others, for where the search's own jump over what is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from gracile.pipeline.selection import Selection
from gracile.search.problem import Ints

_NOTE = (
    "sizes of single parts lie between those of two allocations of the search, to meet the measured time: what is told "
    "of the search is about these two"
)


@dataclass(frozen=True, slots=True)
class _Part:
    name: str
    # Its levels in the first and in the last selection.
    start: int
    end: int

    @property
    def steps(self) -> int:
        return abs(self.end - self.start)

    def level(self, steps: int) -> int:
        """Behind so many steps, or all of its own."""
        moved = min(max(steps, 0), self.steps)
        return self.start + moved if self.end > self.start else self.start - moved


@dataclass(frozen=True, eq=False)
class Between:
    """The way from one selection to another: part after part, each by a level a step.

    Neighbours on it differ by one level of one part, so that where times at its ends lie on two sides of a bound, two
    neighbours do, too; a kernel that likes one size much better than the next is a step of one part alone.  Parts that
    become larger go first, then those that become smaller: whatever lies on the way keeps at least what one of the ends
    keeps.

    Args:
        first: where it begins.
        last: where it ends.
        sizes: the sizes that each part may take, ascending; the last is the part as it is.
        backwards: take the parts in the opposite order.
    """

    first: Selection
    last: Selection
    sizes: Mapping[str, Ints]
    backwards: bool = False

    @cached_property
    def parts(self) -> tuple[_Part, ...]:
        """Those that differ, in the order in which they go over."""
        found = [_Part(name, self._level(name, self.first), self._level(name, self.last)) for name in self.sizes]
        ordered = found[::-1] if self.backwards else found
        return tuple(sorted((part for part in ordered if part.steps), key=lambda part: part.end < part.start))

    @property
    def steps(self) -> int:
        """Steps from ``first``, which is at 0, to ``last``."""
        return sum(part.steps for part in self.parts)

    def at(self, step: int) -> Selection:
        """The selection behind ``step`` steps."""
        sizes, asked = dict(self.first.sizes), dict(self.first.asked)
        for part in self.parts:
            level = part.level(step)
            step -= part.steps
            sizes[part.name] = int(self.sizes[part.name][level])
            if level == len(self.sizes[part.name]) - 1:
                del sizes[part.name]
            if level == part.end and part.name in self.last.asked:
                asked[part.name] = self.last.asked[part.name]
        return replace(self.first, sizes=sizes, asked=asked, notes=(*self.first.notes, _NOTE))

    def _level(self, name: str, selection: Selection) -> int:
        sizes = self.sizes[name]
        return int(sizes.searchsorted(selection.sizes.get(name, sizes[-1])))
