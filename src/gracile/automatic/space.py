"""What a trial is: a pipeline with its options, and the pipelines with which the search begins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Literal, TypeAlias

from gracile.maths.factorize import SCHEMES
from gracile.maths.quant_spec import INTEGERS, IntegerMethod
from gracile.prune.widths import RoundTo
from gracile.recipe import PRUNING, Scope
from gracile.report import LossCurve, Origin

# When a model is trained: after each method, or after the last one alone.
Training: TypeAlias = Literal["each", "last"]

# The splits that the guidebook tries (for half of the cost 0.75 and 0.65 behind the first method), and those that the
# search may take.
GUIDEBOOK = (0.4, 0.6)
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

    def combined(self, known: Mapping[Point, "Known"]) -> list["Proposal"]:
        """Pairs of methods at the target, in the order of what they may be expected to lose, then the guidebook's.

        Args:
            known: what each single method has shown at the target.
        """
        pairs = [self._pair(first, second, known) for first, second in self._partners(known)]
        ordered = sorted(pairs, key=lambda found: found.expected or 0.0)
        guided = [
            Proposal(replace(pair.point, split=split), "guidebook", "the guidebook tries this split")
            for pair in ordered
            if pair.point.sized == ("spatial_svd", "channel_pruning")
            for split in GUIDEBOOK
        ]
        found = {proposal.point: proposal for proposal in (*guided, *ordered)}
        return [found[point] for point in dict.fromkeys(proposal.point for proposal in (*ordered, *guided))]

    @property
    def most_combined(self) -> int:
        """How many points `combined` has at most."""
        pairs = [methods for methods in self.sequences if len(Point(methods=methods).sized) > 1]
        guided = sum(Point(methods=methods).sized == ("spatial_svd", "channel_pruning") for methods in pairs)
        return len(pairs) + len(GUIDEBOOK) * guided

    def _first(self) -> dict[str, Any]:
        return {name: choices[0] for name, choices in self.dimensions.items()} | {"split": 0.5, "share": 1.0}

    def _partners(self, known: Mapping[Point, "Known"]) -> list[tuple[Point, Point]]:
        """For each sequence of two methods, each one's best single point."""
        found = []
        for methods in self.sequences:
            sized = Point(methods=methods).sized
            if len(sized) < 2:
                continue
            best = [_best(known, (name, *methods[2:])) for name in sized]
            if best[0] is not None and best[1] is not None:
                found.append((best[0], best[1]))
        return found

    def _pair(self, first: Point, second: Point, known: Mapping[Point, "Known"]) -> "Proposal":
        values = {**self._first(), **self.values(second), "share": 1.0}
        values["methods"] = "+".join((*first.sized, *second.methods))
        values["split"], expected = best_split(known[first], known[second])
        told = " and ".join(f"{known[point].told} of {point.sized[0]}" for point in (first, second))
        because = f"the least is expected to be lost at this split, by what each loses alone, {told}"
        return Proposal(self.point(values), "combined", because, expected)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A point to try, and why."""

    point: Point
    origin: Origin
    because: str
    # What it is expected to lose, where something tells that.
    expected: float | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What a single method has shown at the target: what it loses, and how that grows on its way."""

    loss: float
    curve: LossCurve | None = None

    @property
    def told(self) -> str:
        """What its losses on the way are known from."""
        if self.curve is None:
            return "a square law"
        return "the dictionary" if self.curve.source == "dictionary" else "the sensitivities of the layers"

    def at(self, way: float) -> float:
        """What it loses at this share of the way, in the logarithm of the cost.

        At least what grows with the square: curves add up what parts lose alone, which says too little of small losses
        of many.  What is not positive counts as nothing.
        """
        told = 0.0 if self.curve is None else self.curve.share(way)
        return max(self.loss, 0.0) * max(told, way**2)


def _best(known: Mapping[Point, Known], methods: Sequence[str]) -> Point | None:
    """Of equal ones the first."""
    found = [point for point in known if point.methods == tuple(methods)]
    return min(found, key=lambda point: known[point].loss, default=None)


def best_split(first: Known, second: Known) -> tuple[float, float]:
    """The split, of those that the search may take, of two methods that are expected to lose the least together, and
    what that is: with a split e the first goes e of the way and the second 1 - e, and what both lose adds up.

    Of equal ones that nearest to a half is taken.
    """
    steps = round((SPLIT_HIGH - SPLIT_LOW) / SPLIT_STEP)
    splits = [round(SPLIT_LOW + step * SPLIT_STEP, 4) for step in range(steps + 1)]
    losses = {split: first.at(split) + second.at(1 - split) for split in splits}
    best = min(splits, key=lambda split: (losses[split], abs(split - 0.5)))
    return best, losses[best]


def by_promise(points: Sequence[Point], promises: Sequence[float | None]) -> list[Proposal]:
    """Single methods, those first that are expected to lose the least, integers alone before all; of equal ones the
    first.

    Args:
        promises: what each is expected to lose in any unit that they share; None where nothing tells.
    """
    able = [promise for point, promise in zip(points, promises, strict=True) if point.sized and promise is not None]
    found = []
    for point, promise in zip(points, promises, strict=True):
        if not point.sized:
            found.append((-1.0, Proposal(point, "single", "integers alone take no search")))
        elif promise is None:
            found.append((inf, Proposal(point, "single", "each method is tried alone")))
        else:
            place = 1 + sum(other < promise for other in able)
            because = f"place {place} of {len(able)} by the sensitivities of the layers that it changes"
            found.append((promise, Proposal(point, "single", because)))
    return [proposal for _, proposal in sorted(found, key=lambda one: one[0])]
