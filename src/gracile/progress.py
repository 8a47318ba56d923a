"""Progress bars for what takes longer than a few seconds; quiet where nobody watches."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Bar:
    """One running bar."""

    def __init__(self, progress: Progress, name: str, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task(name, total=total, note="")

    def advance(self, note: str = "", steps: int = 1) -> None:
        """So many steps done; ``note`` says which, or with none of them what is to come."""
        self._progress.update(self._task, advance=steps, note=note)


@contextmanager
def bar(name: str, total: int | None) -> Iterator[Bar]:
    """A bar on standard error with the steps done, the time taken and the time left; nothing without a terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False),
    )  # fmt: skip
    progress = Progress(
        *columns,
        console=console,
        disable=not console.is_terminal,
        transient=True,
        # Rich forgets steps after half a minute and then knows no time left; an evaluation may take longer.
        speed_estimate_period=math.inf,
    )
    with progress:
        yield Bar(progress, name, total)
