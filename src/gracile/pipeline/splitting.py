"""Of several splits of a target among methods the best: each is carried out and scored, as far as it has hope."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from torch import nn

from gracile.errors import TargetError
from gracile.pipeline.clock import Clock
from gracile.pipeline.outcomes import Done, Outcome
from gracile.pipeline.request import Request
from gracile.scoring import score_of

log = logging.getLogger(__name__)

# Called behind each method but the last with what it has done; may raise to end a split.
Judge: TypeAlias = Callable[[Outcome], None]


class DroppedError(Exception):
    """Ends a split that has lost too much behind one of its methods; no fault of anybody."""

    def __init__(self, score: float, method: str) -> None:
        super().__init__(method)
        self.score, self.method = score, method


@dataclass(frozen=True, eq=False)
class Splitting:
    """The search for the best split of one job.

    Args:
        chained: carries all methods out: the split, whether with training, and what is to judge.
        baseline: the original's score by the function that scores candidates.
    """

    request: Request
    chained: Callable[[float, bool, Judge | None], Done]
    baseline: float
    clock: Clock
    _scores: dict[float, float] = field(default_factory=dict)
    # Splits that were dropped -> the score at which they were.
    _dropped: dict[float, DroppedError] = field(default_factory=dict)
    # Splits with which the last method could not reach the target.
    _missed: list[float] = field(default_factory=list)

    def best(self) -> Done:
        """The best one, trained where there is training.

        Raises:
            TargetError: none reaches the target.
        """
        options = self.request.split
        trains = self.request.fine_tune is not None or self.request.recover is not None
        if len(options.values) == 1:
            return self.chained(options.values[0], True, None)
        kept, missed = self._tried()
        if not self._scores and not self._dropped:
            assert missed is not None
            raise missed
        if not self._scores:
            split = max(self._dropped, key=lambda one: (self._dropped[one].score, -one))
            return self._noted(self.chained(split, True, None), split)
        split = max(self._scores, key=lambda one: (self._scores[one], -one))
        # Without training, or with it in any case, nothing would come out otherwise a second time.
        whole = kept is not None and (options.trained or not trains)
        return self._noted(kept if whole and kept is not None else self.chained(split, True, None), split)

    def _tried(self) -> tuple[Done | None, TargetError | None]:
        """What the best split has led to, and why one of the others missed the target."""
        best, found, missed = None, None, None
        for split in self.request.split.values:
            try:
                done = self.chained(split, self.request.split.trained, self._judge())
                score = self._score(done.model)
            except DroppedError as dropped:
                self._dropped[split] = dropped
                log.info("the split %s was dropped behind %s: %.6g", split, dropped.method, dropped.score)
                continue
            except TargetError as error:
                # How far a method can go is known when those before it have been carried out.
                log.info("the split %s was left out: %s", split, error)
                missed = error
                self._missed.append(split)
                continue
            self._scores[split] = score
            log.info("split %s: score %.6g", split, score)
            if best is None or (score, -split) > best:
                best, found = (score, -split), done
        return found, missed

    def _judge(self) -> Judge | None:
        tolerated = self.request.split.tolerated
        if tolerated is None:
            return None
        least = self.baseline - tolerated * abs(self.baseline)

        def judge(outcome: Outcome) -> None:
            alike = self.request.evaluate_search is self.request.evaluate
            score = outcome.report.score if alike else self._score(outcome.stage.model)
            if score < least:
                raise DroppedError(score, outcome.stage.method)

        return judge

    def _score(self, model: nn.Module) -> float:
        with self.clock("evaluate"):
            return score_of(self.request.evaluate_search, model, "the model of a split")

    def _noted(self, done: Done, taken: float) -> Done:
        """With what became of the splits."""
        scored = ", ".join(f"{split:g}: {score:.6g}" for split, score in self._scores.items())
        dropped = [
            f"{split:g} (behind {one.method} {one.score:.6g}, where the original has {self.baseline:.6g})"
            for split, one in self._dropped.items()
        ]
        notes = [f"splits of the target, scored: {scored}; taken: {taken:g}"] if scored else []
        if dropped:
            notes.append(f"splits that went no further: {', '.join(dropped)}")
        if self._missed:
            notes.append(
                f"splits with which the target is out of reach: {', '.join(f'{one:g}' for one in self._missed)}"
            )
        if dropped and not scored:
            notes.append(f"no split lost little enough: {taken:g}, which lost the least, went on alone")
        return replace(done, notes=(*done.notes, *notes))
