"""Simulated annealing over sparsities (Kirkpatrick et al. 1983; for pruning: Liu et al. 2020, arXiv:1907.03141).

A state is a sparsity for each part.  Every state is rescaled to the target before it is scored, so that all models that
are compared meet it.
"""

from collections.abc import Sequence
from math import exp

import numpy as np

from gracile.progress import bar
from gracile.search.fitting import fit
from gracile.search.joint import JointScores
from gracile.search.problem import Choice, Floats, Problem
from gracile.search_options import Annealing

# A part that a perturbation would leave whole keeps this sparsity, so that every state can be rescaled to the target.
_LEAST = 1e-3


def select_annealing(
    problem: Problem, scores: JointScores, options: Annealing, seed: int, base: Sequence[int] | None = None
) -> Choice:
    """The best model that was scored while the temperature fell.

    The energy of a model is the score that it loses, in hundredths of what the first model of the search lost: so the
    temperatures mean the same for scores of any unit.  At a temperature of 100 a model that loses as much again is
    accepted with probability 1/e.

    Args:
        base: levels to start from, which no part exceeds and of which sparsities are shares; the parts as they are
            by default.

    Raises:
        TargetError: the lowest levels cost more than the bound.
        EvaluationError: the evaluation function failed.
    """
    problem.require_reachable([0 for _ in problem.columns])
    start = [column.dense for column in problem.columns] if base is None else list(base)
    random = np.random.default_rng(seed)
    walk = _Walk(problem, scores, start)
    temperatures = _temperatures(options)
    with bar("simulated annealing", 1 + options.proposals * len(temperatures)) as progress:
        walk.move(first_sparsities(problem, random), 0.0, random)
        progress.advance()
        for temperature in temperatures:
            magnitude = options.perturbation_magnitude * temperature / options.start_temperature
            for _ in range(options.proposals):
                change = random.uniform(-magnitude, magnitude, len(problem.columns))
                walk.move(walk.sparsities + change, temperature, random)
                progress.advance(f"best {walk.best_score:.6g}")
    note = (
        f"annealing scored {scores.count} models and accepted {walk.accepted} moves; the best has "
        f"{walk.best_score:.6g}, the first had {walk.first_score:.6g}"
    )
    return Choice(tuple(walk.best), (note,))


class _Walk:
    """Where the search stands, and the best that it has met."""

    def __init__(self, problem: Problem, scores: JointScores, start: Sequence[int]) -> None:
        self._problem = problem
        self._scores = scores
        self._start = start
        shares = [problem.shares(index) for index in range(len(start))]
        lowest = [1 - row[0] / row[level] for row, level in zip(shares, start, strict=True)]
        # No part goes further than its lowest level.
        self._caps = np.maximum(np.array(lowest), _LEAST)
        self._scale = 0.0
        self._energy = 0.0
        self.sparsities: Floats = np.zeros(len(start))
        self.best: list[int] = []
        self.best_score = self.first_score = 0.0
        self.accepted = -1

    def move(self, sparsities: Floats, temperature: float, random: np.random.Generator) -> None:
        """Go to ``sparsities``, scaled to the target, if they are accepted; the first always are."""
        wished = np.clip(sparsities, _LEAST, self._caps)
        fitted = fit(self._problem, self._start, wished, self._problem.bound)
        assert fitted is not None, "require_reachable has checked it, and no sparsity is 0"
        score = self._scores(fitted.levels)
        lost = self._scores.baseline - score
        self._scale = self._scale or abs(lost)
        energy = 100 * lost / self._scale if self._scale else 0.0
        draw = random.random()
        if not self.best:
            self.first_score = score
        elif draw >= acceptance(energy - self._energy, temperature):
            return
        if not self.best or score > self.best_score:
            self.best, self.best_score = fitted.levels, score
        self.sparsities = np.clip(fitted.factor * wished, _LEAST, self._caps)
        self._energy = energy
        self.accepted += 1


def acceptance(change: float, temperature: float) -> float:
    """The probability of a move that changes the energy by ``change``: 1 downhill, else exp(-change / temperature)."""
    return 1.0 if change <= 0 else exp(-change / temperature)


def first_sparsities(problem: Problem, random: np.random.Generator) -> Floats:
    """Uniform draws from (0, 1), the largest for the part that costs most, and so on down."""
    order = np.argsort([problem.weight(index) for index in range(len(problem.columns))], kind="stable")
    sparsities = np.empty(len(order))
    sparsities[order] = np.sort(random.random(len(order)))
    return sparsities


def _temperatures(options: Annealing) -> list[float]:
    found, temperature = [], options.start_temperature
    while temperature >= options.stop_temperature:
        found.append(temperature)
        temperature *= options.cool_down_rate
    return found
