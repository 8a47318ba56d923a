"""What a user may say about the automatic search."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import inf
from typing import Any, Final, Literal, get_args

from gracile.errors import InputError
from gracile.maths.quant_spec import INTEGERS, IntegerMethod
from gracile.recipe import PRUNING, Scope
from gracile.registered import OWN_METHODS
from gracile.search_options import ShortFineTune

# The method of `gracile.compress` that finds the methods.
AUTO: Final[Literal["auto"]] = "auto"
_METHODS: tuple[str, ...] = ("spatial_svd", "weight_svd", *PRUNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Auto:
    """Options of ``compress(method="auto")``: what is tried, for how long, and what is taken in the end.

    Raises:
        InputError: a value is out of range.
    """

    # Pipelines to try at most, and minutes after which none is begun any more.
    trials: int = 32
    minutes: float | None = None
    # None takes the best score within the target; else the cheapest pipeline that loses at most so much, in the score's
    # own unit.
    tolerated_loss: float | None = None
    # By how much two scores may differ by chance, in their own unit: no trial is stopped for less, and of those that
    # lie so near the best score the one is taken whose outputs have changed least.  For an accuracy of 0.9 on 5,000
    # examples the standard error is 0.004, and half of that between models that are wrong on much the same ones.
    noise: float = 0.0
    # The methods that change sizes: each alone, and one that factorizes before one that prunes.  One of your own, see
    # `register_method`, is tried alone.
    methods: tuple[str, ...] = _METHODS
    # Whether pipelines end in int8: all, none, or, for None, some where the target is in bytes and there is calibration
    # data.
    int8: bool | None = None
    # The weights of those integers: "int8", "int4"; activations are uint8.
    weights: tuple[IntegerMethod, ...] = ("int8",)
    # Which channels go first; empty stands for the criterion of the call, whose "auto" is "elimination" and "l2" with
    # calibration data, else "l2".
    criteria: tuple[str, ...] = ()
    # Of "prune".
    scopes: tuple[Scope, ...] = ("layer", "global")
    # Multiples of ranks and widths; empty stands for the one of the call.
    round_to: tuple[int | Literal["auto"], ...] = ()
    # How far trials go, as shares of the target.
    shares: tuple[float, ...] = (1.0, 0.85, 0.7)
    # Trials that are proposed at a time, from the results of those before: more make more workers useful.
    batch: int = 4
    # Trains trials in place of the call's fine_tune, which then trains the chosen pipeline alone.
    fine_tune: ShortFineTune | None = None
    # How often fine_tune is called each time (of recover: by how much its epochs are multiplied); single methods get
    # the first.
    tunings: tuple[int, ...] = (1,)
    # A trial is stopped when it cannot be as good as another one even if training won so many times what it ever won.
    margin: float = 1.5
    # The address of a database that several machines share, as SQLAlchemy takes it; by default a file beside the store.
    study: str | None = None
    # The name of this process among those that share the study; the machine's by default.
    worker: str | None = None

    def __post_init__(self) -> None:
        for name in ("trials", "batch"):
            value = getattr(self, name)
            self._require(name, _is_whole(value) and value >= 1, "it is a whole number of at least 1")
        for name in ("minutes", "tolerated_loss", "margin", "noise"):
            value = getattr(self, name)
            low = value is not None and (name == "minutes" and value == 0)
            good = (value is None and name not in ("margin", "noise")) or (
                _is_number(value) and 0 <= value < inf and not low
            )
            self._require(name, good, f"it is a number {'above 0' if name == 'minutes' else 'from 0'}")
        self._require_choices("methods", (*_METHODS, *OWN_METHODS))
        self._require_choices("scopes", get_args(Scope))
        self._require_choices("weights", INTEGERS)
        self._require_counts("tunings")
        self._require("int8", self.int8 in (None, True, False), "it is True, False or None")
        names = isinstance(self.criteria, tuple) and all(isinstance(name, str) for name in self.criteria)
        self._require("criteria", names and _differ(self.criteria), "they are different names of criteria, in a tuple")
        rounds = isinstance(self.round_to, tuple) and all(
            value == "auto" or (_is_whole(value) and value >= 1) for value in self.round_to
        )
        self._require("round_to", rounds and _differ(self.round_to), 'they are whole numbers or "auto", in a tuple')
        shares = isinstance(self.shares, tuple) and all(_is_number(share) and 0 < share <= 1 for share in self.shares)
        good = shares and _differ(self.shares) and 1 in self.shares
        self._require("shares", good, "they are different numbers in (0, 1], 1 among them, in a tuple")
        good = self.fine_tune is None or callable(self.fine_tune)
        self._require("fine_tune", good, "give a function of the model, or None")
        for name in ("study", "worker"):
            value = getattr(self, name)
            self._require(name, value is None or (isinstance(value, str) and bool(value)), "give text, or None")
        good = self.study is None or "://" in self.study
        self._require("study", good, 'give an address, as in "postgresql://user@host/name" or "sqlite:///runs/a.db"')

    def _require(self, name: str, good: bool, meaning: str) -> None:
        if not good:
            raise InputError(f"Auto: {name} is {getattr(self, name)!r}; {meaning}")

    def _require_counts(self, name: str) -> None:
        value = getattr(self, name)
        good = isinstance(value, tuple) and bool(value) and all(_is_whole(one) and one >= 1 for one in value)
        self._require(name, good and _differ(value), "they are different whole numbers from 1, in a tuple")

    def _require_choices(self, name: str, known: tuple[str, ...]) -> None:
        value = getattr(self, name)
        good = isinstance(value, tuple) and bool(value) and all(one in known for one in value) and _differ(value)
        self._require(name, good, f"they are some of {', '.join(known)}, each once, in a tuple")


def auto_of(values: Mapping[str, Any]) -> Auto:
    """The options from their names and values; lists stand for tuples.

    Raises:
        InputError: there is no such option, or a value is out of range.
    """
    known = [field.name for field in fields(Auto)]
    unknown = [name for name in values if name not in known]
    if unknown:
        raise InputError(f"Auto has no option {unknown[0]!r}; it has {', '.join(known)}")
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return Auto(**given)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _differ(values: tuple[object, ...]) -> bool:
    return len(set(values)) == len(values)
