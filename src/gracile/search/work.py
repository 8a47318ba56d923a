"""What searches ask for: the scores of candidates, in any order, from whoever computes them."""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, Self, TypeAlias, TypeVar

from gracile.search.memo import Usage

Asked_contra = TypeVar("Asked_contra", bound=Hashable, contravariant=True)
Question = TypeVar("Question", bound=Hashable)
Answer_co = TypeVar("Answer_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model to score: the original with some parts at other sizes."""

    # (part, size), sorted by part.
    sizes: tuple[tuple[str, int], ...]
    # As an entry of the evaluation dictionary: one part alone, swapped in for a moment; else all parts cut for good
    # and repaired as the final model will be.
    alone: bool

    @classmethod
    def of(cls, layer: str, size: int) -> Self:
        """One part alone."""
        return cls(((layer, size),), alone=True)

    @classmethod
    def jointly(cls, sizes: Mapping[str, int]) -> Self:
        return cls(tuple(sorted(sizes.items())), alone=False)

    def __str__(self) -> str:
        if self.alone:
            ((layer, size),) = self.sizes
            return f"the model with {layer or 'it'} at {size}"
        parts = [f"{layer} at {size}" for layer, size in self.sizes]
        return "the model with " + ", ".join(parts[:4]) + (f" and {len(parts) - 4} more" if len(parts) > 4 else "")


@dataclass(frozen=True, slots=True)
class Scored:
    """The score of a candidate, and what was not computed for it."""

    score: float
    usage: Usage = field(default_factory=Usage)


class Task(Protocol[Asked_contra, Answer_co]):
    """Answers questions; sent to worker processes once."""

    def __call__(self, asked: Asked_contra, /) -> Answer_co:
        """The answer.

        Raises:
            EvaluationError: the evaluation function failed.
        """
        ...


class Pool(Protocol[Question, Answer_co]):
    """Where questions are answered."""

    def scores(self, candidates: Iterable[Question]) -> Iterator[tuple[Question, Answer_co]]:
        """Each question with its answer, in whatever order they come.

        Raises:
            EvaluationError: the evaluation function failed, or its process died again and again.
        """
        ...


# Scores candidates of one model, and where that is done.
Work: TypeAlias = Task[Candidate, Scored]
Executor: TypeAlias = Pool[Candidate, Scored]
