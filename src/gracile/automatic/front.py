"""What the trials so far say: which are on the front, which one to take, which are hopeless."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from gracile.report import Trial


class HopelessError(Exception):
    """Ends a trial that cannot become as good as another; no fault of anybody."""

    def __init__(self, score: float, reason: str) -> None:
        super().__init__(reason)
        self.score = score
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Rivals:
    """What finished trials have reached, and what training has won in them.

    Frozen and hashable: what a trial is measured against is fixed when it is proposed, and does not depend on which of
    its neighbours happens to end first.
    """

    # (cost, score) on the front.
    front: tuple[tuple[float, float], ...]
    # The most that training has won in one trial.
    gain: float
    margin: float
    # How far scores may lie apart by chance.
    noise: float = 0.0

    @classmethod
    def of(cls, trials: Iterable[Trial], margin: float, noise: float = 0.0) -> "Rivals":
        finished = [trial for trial in trials if trial.state == "finished"]
        points = tuple((trial.cost, trial.score) for trial in front_of(finished))
        return cls(points, max((trial.gain for trial in finished), default=0.0), margin, noise)  # type: ignore[arg-type]

    def require_hope(self, score: float, cost: float) -> None:
        """Raises HopelessError where a trial cannot reach the front any more.

        A trial with ``score`` behind a method, before training, is hoped to end with at most
        score + noise + margin * (the most that training has won so far).  It is hopeless where another trial has more
        than that and costs no more than what this one goes for.
        """
        hoped = score + self.noise + self.margin * max(self.gain, 0.0)
        better = [found for found in self.front if found[0] <= cost and found[1] > hoped]
        if not better:
            return
        best = max(better, key=lambda found: found[1])
        raise HopelessError(
            score,
            f"{score:.6g} before training, {hoped:.6g} at best, where another trial has {best[1]:.6g} at "
            f"{best[0]:.4f} of the cost",
        )


def front_of(trials: Iterable[Trial]) -> list[Trial]:
    """The finished trials for which no other one is as cheap and better, or as good and cheaper; ascending in cost.

    Of equal ones the first stands for all.
    """
    finished = [trial for trial in trials if trial.state == "finished"]
    ordered = sorted(finished, key=lambda trial: (_cost(trial), -_score(trial), trial.place))
    front: list[Trial] = []
    for trial in ordered:
        if not front or _score(trial) > _score(front[-1]):
            front.append(trial)
    return front


def within(trials: Iterable[Trial], target: float) -> list[Trial]:
    """Those on the front that cost no more than ``target``."""
    return front_of(_affordable(trials, target))


def chosen_of(
    trials: Iterable[Trial], target: float, baseline: float, tolerated_loss: float | None, noise: float = 0.0
) -> tuple[Trial, str] | None:
    """The trial to take, and what there is to say about it; None where no trial is within the target.

    Without ``tolerated_loss`` the best score; else the cheapest that loses at most so much, or the best score where
    none does.  Scores on finite data tell near models apart by chance: of those that lie within ``noise`` of the best
    score that is taken whose outputs have changed least.
    """
    affordable = _affordable(trials, target)
    fitting = front_of(affordable)
    if not fitting:
        return None
    best = _steadiest(affordable, fitting[-1], noise)
    if tolerated_loss is None:
        return best, _by_change(best, fitting[-1])
    tolerable = [trial for trial in fitting if baseline - _score(trial) <= tolerated_loss]
    if tolerable:
        return tolerable[0], ""
    return best, (
        f"no pipeline within the target loses at most {tolerated_loss:.6g}: the best, which was taken, loses "
        f"{baseline - _score(best):.6g}"
    )


def _affordable(trials: Iterable[Trial], target: float) -> list[Trial]:
    """The finished ones that cost no more than ``target``."""
    # Costs are counts, and the target a number: a last bit makes no difference.
    return [trial for trial in trials if trial.state == "finished" and _cost(trial) <= target * (1 + 1e-9)]


def _steadiest(trials: Iterable[Trial], best: Trial, noise: float) -> Trial:
    """Of the trials that are as good as ``best``, but for noise, the one that changes the outputs least."""
    near = [trial for trial in trials if _score(trial) >= _score(best) - noise]
    return min([best, *near], key=lambda trial: inf if trial.change is None else trial.change)


def _by_change(taken: Trial, best: Trial) -> str:
    if taken.score == best.score:
        return ""
    return (
        f"trial {taken.place} was taken, whose outputs have changed least: its score of {taken.score:.6g} lies within "
        f"the noise of the best, {best.score:.6g} of trial {best.place}"
    )


def _cost(trial: Trial) -> float:
    assert trial.cost is not None
    return trial.cost


def _score(trial: Trial) -> float:
    assert trial.score is not None
    return trial.score
