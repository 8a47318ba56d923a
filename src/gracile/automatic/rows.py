"""What stands in a study, beside what Optuna keeps, and where the study of a store is."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from gracile.report import Trial


def study_beside(store: Path) -> Path:
    """The file of the study of a search that keeps its evaluations in ``store``."""
    return store.with_name(f"{store.name}.study")


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)


class About(_Row):
    """What stands in a study for those who watch it."""

    # What costs are counted in, the share of the original's cost that is asked for, and how many trials there may be.
    metric: str
    target: float
    trials: int


class Attributes(_Row):
    """What stands in a study beside a trial."""

    place: int
    batch: int
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A search as far as it is."""

    key: Mapping[str, str]
    # None of one that an earlier version began.
    about: About | None
    # The original's score.
    baseline: float
    # By their places.
    ended: tuple[Trial, ...]
    # (place, methods, process) of trials that were begun and have not ended.
    under_way: tuple[tuple[int, str, str], ...]
