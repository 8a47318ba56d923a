"""Where candidates are scored: in this process, in processes of this machine, as tasks of a Ray cluster.

Every executor gives each candidate the same score; only the order in which they come differs.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from gracile.extras import extra
from gracile.search.executors.in_process import InProcess
from gracile.search.executors.processes import Processes
from gracile.search.work import Answer_co, Pool, Question, Task
from gracile.search_options import ExecutorKind

__all__ = ["InProcess", "Processes", "opened", "require_packages"]

_RAY = "gracile.search.executors.ray_tasks"


def require_packages(kind: ExecutorKind) -> None:
    """Raises MissingExtraError where the executor needs a package that is not installed."""
    if kind == "ray":
        extra(_RAY, "ray", purpose="executor='ray'")


@contextmanager
def opened(work: Task[Question, Answer_co], kind: ExecutorKind, n_jobs: int) -> Iterator[Pool[Question, Answer_co]]:
    """An executor for ``work`` inside the block.

    Args:
        n_jobs: how many candidates are scored at the same time.  With 1, "processes" is this process.

    Raises:
        MissingExtraError: "ray" without the package.
    """
    if kind == "ray":
        with extra(_RAY, "ray", purpose="executor='ray'").RayTasks(work, n_jobs) as executor:
            yield executor
    elif n_jobs == 1:
        yield InProcess(work)
    else:
        with Processes(work, n_jobs) as executor:
            yield executor
