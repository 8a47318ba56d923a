"""What a trial is: a pipeline with its options, and the pipelines with which the search begins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from gracile.maths.factorize import SCHEMES
from gracile.maths.quant_spec import INTEGERS, IntegerMethod
from gracile.prune.widths import RoundTo
from gracile.recipe import PRUNING, Scope

# When a model is trained: after each method, or after the last one alone.
Training: TypeAlias = Literal["each", "last"]

# The splits that the guidebook tries, and those that the search may take.
GUIDEBOOK = (0.25, 0.5, 0.75)
SPLIT_LOW, SPLIT_HIGH, SPLIT_STEP = 0.1, 0.9, 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One pipeline.  What its methods do not look at is None, so that equal pipelines are equal points."""

    # In their order; integers last.
    methods: tuple[str, ...]
    # The share of the target that it goes for; 1 is the target.
    share: float = 1.0
    # Of two methods that change sizes, the first leaves C^split of the cost C that is asked for.
    split: float | None = None
    criterion: str | None = None
    scope: Scope | None = None
    round_to: RoundTo | None = None
    training: Training | None = None
    # How often the user's training is called each time.
    tunings: int | None = None

    @property
    def sized(self) -> tuple[str, ...]:
        """The methods that change sizes."""
        return tuple(method for method in self.methods if method not in INTEGERS)

    @property
    def integers(self) -> IntegerMethod | None:
        """What the pipeline ends in, where that is integers."""
        return next((method for method in INTEGERS if method in self.methods), None)

    @property
    def name(self) -> str:
        return "+".join(self.methods)

    @property
    def alone(self) -> bool:
        """Whether there is one method, integers apart."""
        return len(self.sized) <= 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """All points that a search may try."""

    methods: tuple[str, ...]
    criteria: tuple[str, ...]
    scopes: tuple[Scope, ...]
    rounds: tuple[RoundTo, ...]
    shares: tuple[float, ...]
    # The integers that pipelines may end in, None for none, and whether these alone are pipelines, as they are where
    # bytes are counted.
    integers: tuple[IntegerMethod | None, ...] = (None,)
    integers_alone: bool = False
    # Whether there is training.
    trained: bool = False
    tunings: tuple[int, ...] = (1,)

    @property
    def sequences(self) -> tuple[tuple[str, ...], ...]:
        """Each method alone, and each that factorizes before each that prunes, as the guidebook has it."""
        first = [method for method in self.methods if method in SCHEMES]
        second = [method for method in self.methods if method in PRUNING]
        sized = [(method,) for method in self.methods] + [(a, b) for a in first for b in second]
        ends: list[tuple[str, ...]] = [() if integers is None else (integers,) for integers in self.integers]
        alone = [end for end in ends if end] if self.integers_alone else []
        return (*alone, *((*methods, *end) for methods in sized for end in ends))

    @property
    def dimensions(self) -> dict[str, tuple[Any, ...]]:
        """What each choice of a sampler may be; the split, a number, apart."""
        return {
            "methods": tuple("+".join(methods) for methods in self.sequences),
            "share": self.shares,
            "criterion": self.criteria,
            "scope": self.scopes,
            "round_to": self.rounds,
            "training": ("each", "last") if self.trained else ("each",),
            # One choice would take random numbers from the others.
            **({"tunings": self.tunings} if self.trained and len(self.tunings) > 1 else {}),
        }

    def point(self, values: Mapping[str, Any]) -> Point:
        """The point that the values of all dimensions and ``split`` mean."""
        methods = tuple(values["methods"].split("+"))
        bare = Point(methods=methods)
        sized = bare.sized
        several = len(sized) > 1
        return replace(
            bare,
            share=values["share"] if sized else 1.0,
            split=round(values["split"], 4) if several else None,
            criterion=values["criterion"] if any(method in PRUNING for method in sized) else None,
            scope=values["scope"] if "prune" in sized else None,
            round_to=values["round_to"] if sized else None,
            training=values["training"] if several and self.trained else None,
            tunings=(values.get("tunings") or self.tunings[0]) if self.trained else None,
        )

    def values(self, point: Point) -> dict[str, Any]:
        """Values that mean ``point``; where it says nothing, the first choice."""
        given = {
            "methods": point.name, "share": point.share, "criterion": point.criterion, "scope": point.scope,
            "round_to": point.round_to, "training": point.training, "tunings": point.tunings,
        }  # fmt: skip
        chosen = {name: given[name] if given[name] is not None else first[0] for name, first in self.dimensions.items()}
        return {**chosen, "split": 0.5 if point.split is None else point.split}

    def singles(self) -> list[Point]:
        """Each method alone at the target: first with the first choices, then with all others."""
        points = [
            self.point({**self._first(), "methods": "+".join(methods), "criterion": criterion, "scope": scope,
                        "round_to": multiple})
            for multiple in self.rounds
            for criterion in self.criteria
            for scope in self.scopes
            for methods in self.sequences
            if Point(methods=methods).alone
        ]  # fmt: skip
        return list(dict.fromkeys(points))

    def combined(self, losses: Mapping[Point, float]) -> list[Point]:
        """Pairs of methods at the target, in the order of what they may be expected to lose, then the guidebook's.

        Args:
            losses: what each single method has lost at the target.
        """
        pairs = [
            (parallel(losses[first], losses[second]), place, self._pair(first, second, losses))
            for place, (first, second) in enumerate(self._partners(losses))
        ]
        ordered = [point for _, _, point in sorted(pairs, key=lambda found: found[:2])]
        guided = [
            replace(point, split=split)
            for point in ordered
            if point.sized == ("spatial_svd", "channel_pruning")
            for split in GUIDEBOOK
        ]
        return list(dict.fromkeys([*ordered, *guided]))

    @property
    def most_combined(self) -> int:
        """How many points `combined` has at most."""
        pairs = [methods for methods in self.sequences if len(Point(methods=methods).sized) > 1]
        guided = sum(Point(methods=methods).sized == ("spatial_svd", "channel_pruning") for methods in pairs)
        return len(pairs) + len(GUIDEBOOK) * guided

    def _first(self) -> dict[str, Any]:
        return {name: choices[0] for name, choices in self.dimensions.items()} | {"split": 0.5, "share": 1.0}

    def _partners(self, losses: Mapping[Point, float]) -> list[tuple[Point, Point]]:
        """For each sequence of two methods, each one's best single point."""
        found = []
        for methods in self.sequences:
            sized = Point(methods=methods).sized
            if len(sized) < 2:
                continue
            best = [_best(losses, (name, *methods[2:])) for name in sized]
            if best[0] is not None and best[1] is not None:
                found.append((best[0], best[1]))
        return found

    def _pair(self, first: Point, second: Point, losses: Mapping[Point, float]) -> Point:
        values = {**self._first(), **self.values(second), "share": 1.0}
        values["methods"] = "+".join((*first.sized, *second.methods))
        values["split"] = on_grid(best_split(losses[first], losses[second]))
        return self.point(values)


def _best(losses: Mapping[Point, float], methods: Sequence[str]) -> Point | None:
    """Of equal ones the first."""
    found = [point for point in losses if point.methods == tuple(methods)]
    return min(found, key=lambda point: losses[point], default=None)


def best_split(first: float, second: float) -> float:
    """The split of two methods that are expected to lose the least together.

    What a method loses grows about with the square of how far it goes, measured in the logarithm of the cost.  With a
    split e the first goes e of the way and the second 1 - e, and they lose L1 e^2 + L2 (1 - e)^2, least at
    e = L2 / (L1 + L2).

    Args:
        first, second: what each loses where it goes all the way, alone.  What is not positive counts as nothing.
    """
    one, two = max(first, 0.0), max(second, 0.0)
    return two / (one + two) if one + two else 0.5


def parallel(first: float, second: float) -> float:
    """What both lose together at `best_split`: L1 L2 / (L1 + L2)."""
    one, two = max(first, 0.0), max(second, 0.0)
    return one * two / (one + two) if one + two else 0.0


def on_grid(split: float) -> float:
    """The nearest split that the search may take."""
    steps = round((min(SPLIT_HIGH, max(SPLIT_LOW, split)) - SPLIT_LOW) / SPLIT_STEP)
    return round(SPLIT_LOW + steps * SPLIT_STEP, 4)
