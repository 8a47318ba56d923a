"""The trials of a search in a database that survives it and that others may join; optuna proposes new ones.

Optuna is an optional package (extra "auto").  This module imports it at once; `gracile.pipeline` loads it when it is
asked for.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from gracile.automatic.database import OPEN, PREFIX, ended_of, named, opened, read_as, told
from gracile.automatic.rows import About, Attributes
from gracile.automatic.space import SPLIT_HIGH, SPLIT_LOW, SPLIT_STEP, Point, Space
from gracile.errors import StoreError
from gracile.report import Trial
from gracile.store import NO_DATA

log = logging.getLogger(__name__)

# Proposals for one trial until one is new: by what the others have reached, then at random.
_GUIDED, _RANDOM = 6, 40
# In what a search differs from another one that was to be the same.
_IDENTITY = {"model", "data", "gracile"}


@dataclass(frozen=True, slots=True)
class Placed:
    """A trial of the study."""

    number: int
    place: int
    batch: int
    # The process that carries it out.
    owner: str
    point: Point
    # None until it has ended.
    ended: Trial | None


class Study:
    """A context manager.

    Args:
        place: the database: a file, or an address as SQLAlchemy takes it; None keeps the study in memory.
        key: what tells it from studies of other jobs, by names.
        baseline: the original's score.
        space: what may be proposed.
        seed: of the proposals.
        shared: whether the database may hold the same search of another model or other data.
        about: what tells those who watch the search how far it is.

    Raises:
        StoreError: the database cannot be used, the original had another score in it, or it belongs to another model.
    """

    def __init__(
        self,
        place: str | Path | None,
        key: Mapping[str, str],
        baseline: float,
        space: Space,
        seed: int,
        *,
        shared: bool = False,
        about: About | None = None,
    ) -> None:
        url = None if place is None else told(place)
        self._url, self._space, self._seed = url, space, seed
        # Where this one begins anew in a database that others are in already: how the nearest of them differs.
        self.note = ""
        self._verbosity = optuna.logging.get_verbosity()
        # Its messages are of its own words; ours come through our loggers.
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage: Any = None
        try:
            with named(url):
                self._storage = optuna.storages.InMemoryStorage() if place is None else opened(place)
                name = study_name(key)
                self._look_around(name, key, shared)
                self._study = optuna.create_study(
                    storage=self._storage, study_name=name, directions=["maximize", "minimize"], load_if_exists=True
                )
                self._study.set_user_attr("key", dict(key))
                if about is not None:
                    self._study.set_user_attr("about", about.model_dump())
                known = self._study.user_attrs.get("baseline")
                if known is None:
                    self._study.set_user_attr("baseline", baseline)
            if known is not None:
                self._require_same(read_as(float, known, "the original's score", url), baseline)
        except BaseException:
            self.close()
            raise

    def _look_around(self, name: str, key: Mapping[str, str], shared: bool) -> None:
        """Refuse what was to go on with, or to join, a search of another model; note what else there is."""
        studies = self._storage.get_all_studies()
        if any(study.study_name == name for study in studies):
            return
        others = [
            _differing(key, read_as(dict[str, str], study.user_attrs["key"], "the key of a search", self._url))
            for study in studies
            if study.study_name.startswith(PREFIX)
            and "key" in study.user_attrs
            and self._storage.get_n_trials(study._study_id)
        ]
        for differing in others:
            if differing <= _IDENTITY and not shared:
                raise StoreError(
                    f"the study {self._url} holds this very search, begun with another {_in_words(differing)}: its "
                    "trials cannot be used, and a search that was to go on, or to join others, would begin anew. Load "
                    "the same weights and the same data, or give another store or study; shared_store=True keeps both "
                    "in one"
                )
        # Another target is another search, as everybody knows.
        near = min((differing for differing in others if "target" not in differing), key=len, default=None)
        if near is not None:
            self.note = (
                f"a new search was begun: {self._url} holds {len(others)} other{'s' if len(others) > 1 else ''}, of "
                f"which the nearest differs in {_in_words(near)}"
            )

    def _require_same(self, known: float, baseline: float) -> None:
        if abs(known - baseline) > 1e-6 * max(1.0, abs(known)):
            raise StoreError(
                f"the evaluation function gives the original model {baseline:.6g}, where the study {self._url} has "
                f"{known:.6g} for it: another evaluation function, other data, or one that is not deterministic. Give "
                "another store, or make the function deterministic"
            )

    def kept(self, name: str, kind: Any, make: Callable[[], Any]) -> Any:
        """What was kept under ``name``, of the type ``kind``; where nothing was, what ``make`` gives is.

        So that processes that share the study, and searches that go on, see the same.
        """
        with named(self._url):
            known = self._study.user_attrs
        if name not in known:
            made = make()
            with named(self._url):
                self._study.set_user_attr(name, made)
                known = self._study.user_attrs
        return read_as(kind, known[name], name, self._url)

    def placed(self) -> list[Placed]:
        """All trials that have a place, by their places.

        Processes that share the study may begin trials of one place, or of one point, at the same moment.  Each is
        written in one transaction, which gives it its number: the first one counts, for all of them.
        """
        places, points, found = set[int](), set[Point](), []
        for trial in sorted(self._trials(), key=lambda trial: trial.number):
            if "place" not in trial.user_attrs or not self._space.dimensions.keys() <= trial.params.keys():
                continue
            one = self._placed(trial)
            if one.place not in places and one.point not in points:
                places.add(one.place)
                points.add(one.point)
                found.append(one)
        return sorted(found, key=lambda one: one.place)

    def _placed(self, trial: FrozenTrial) -> Placed:
        attributes = read_as(Attributes, trial.user_attrs, f"trial {trial.number}", self._url)
        try:
            point = self._space.point(trial.params)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise StoreError(f"the study {self._url} is damaged: trial {trial.number} is of no pipeline") from error
        return Placed(
            number=trial.number,
            place=attributes.place,
            batch=attributes.batch,
            owner=attributes.owner,
            point=point,
            ended=None if trial.state in OPEN else ended_of(trial, self._url),
        )

    def _trials(self) -> list[FrozenTrial]:
        with named(self._url):
            trials: list[FrozenTrial] = self._study.get_trials(deepcopy=False)
        return trials

    def add(self, point: Point, place: int, batch: int, owner: str) -> bool:
        """Begin a trial of this point; False where another process has just begun one at another place."""
        with named(self._url):
            template = create_trial(
                state=TrialState.RUNNING,
                params=self._space.values(point),
                distributions=self._distributions,
                user_attrs={"batch": batch, "owner": owner, "place": place},
            )
            self._study.add_trial(template)
        placed = self.placed()
        if not any(one.place == place and one.owner == owner for one in placed):
            self._withdraw(place, owner)
        return any(one.place == place for one in placed)

    def _withdraw(self, place: int, owner: str) -> None:
        """End what does not count, so that nobody looks for its end."""
        for trial in self._trials():
            attributes = trial.user_attrs
            if trial.state in OPEN and (attributes.get("place"), attributes.get("owner")) == (place, owner):
                with named(self._url):
                    self._study.tell(trial.number, state=TrialState.FAIL)

    def propose(self, place: int, batch: int, owner: str) -> bool:
        """Begin a trial of a point that no other one has; False where none was found."""
        known = {one.point for one in self.placed()}
        ended = [trial for trial in self._trials() if trial.state == TrialState.COMPLETE]
        # A study of this process alone: what is only looked at leaves no trace in the one that is shared.
        sketch = optuna.create_study(directions=self._study.directions)
        sketch.add_trials(ended)
        for attempt in range(_GUIDED + _RANDOM):
            seed = _seed(self._seed, place, attempt)
            # Made anew for each trial: what it proposes depends on the study alone, and not on how often the search
            # was interrupted.
            sketch.sampler = (
                optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=False)
                if attempt < _GUIDED
                else optuna.samplers.RandomSampler(seed=seed)
            )
            point = self._space.point(sketch.ask(self._distributions).params)
            if point not in known:
                if self.add(point, place, batch, owner):
                    return True
                known.add(point)
        return False

    def tell(self, placed: Placed, ended: Trial) -> None:
        """Keep how a trial has ended; of a stopped one the sampler learns the score at which it stopped."""
        with named(self._url):
            identity = self._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, placed.number)
            self._storage.set_trial_user_attr(identity, "trial", ended.model_dump_json())
            if ended.score is None:
                self._study.tell(placed.number, state=TrialState.FAIL)
            else:
                cost = ended.asked if ended.cost is None else ended.cost
                self._study.tell(placed.number, values=[ended.score, cost])

    @property
    def _distributions(self) -> dict[str, BaseDistribution]:
        choices = {name: CategoricalDistribution(values) for name, values in self._space.dimensions.items()}
        return {**choices, "split": FloatDistribution(SPLIT_LOW, SPLIT_HIGH, step=SPLIT_STEP)}

    def close(self) -> None:
        optuna.logging.set_verbosity(self._verbosity)
        if isinstance(self._storage, optuna.storages.RDBStorage):
            self._storage.remove_session()
            self._storage.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _seed(*parts: int) -> int:
    """32 bits that differ for every place and attempt."""
    digest = hashlib.sha256(" ".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def study_name(key: Mapping[str, str]) -> str:
    """The name of the study of a job."""
    return f"{PREFIX}{hashlib.sha256(repr(list(key.items())).encode()).hexdigest()[:32]}"


def _differing(mine: Mapping[str, str], theirs: Mapping[str, str]) -> set[str]:
    """In what two jobs differ; that one of them has no data is a choice, like an option."""
    names = {name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)}
    chosen = "data" in names and NO_DATA in (mine.get("data"), theirs.get("data"))
    return names - {"data"} | {"options"} if chosen else names


def _in_words(names: Iterable[str]) -> str:
    words = {"data": "calibration data", "gracile": "version of gracile", "order": "version of gracile"}
    return " and ".join(sorted({words.get(name, name) for name in names}))
