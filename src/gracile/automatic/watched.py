"""The searches in a database of studies, for those who look on.

Optuna is an optional package (extra "auto").  This module imports it at once; `gracile.live` loads it when it is asked
for.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna

from gracile.automatic.database import OPEN, PREFIX, ended_of, named, opened_to_read, read_as
from gracile.automatic.rows import About, Attributes, Watched


def searches_in(file: Path) -> list[Watched]:
    """The searches of gracile's in a file, which is only read, in the order in which they were begun.

    Raises:
        StoreError: it is damaged, or no database of studies.
    """
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage: Any = None
    try:
        with named(str(file)):
            storage = opened_to_read(file)
            studies = [study for study in storage.get_all_studies() if study.study_name.startswith(PREFIX)]
            trials = {study.study_name: storage.get_all_trials(study._study_id, deepcopy=False) for study in studies}
        return [
            _watched(study.user_attrs, trials[study.study_name], str(file))
            for study in studies
            if {"key", "baseline"} <= study.user_attrs.keys()
        ]
    finally:
        optuna.logging.set_verbosity(verbosity)
        if storage is not None:
            storage.remove_session()
            storage.engine.dispose()


def _watched(attributes: Mapping[str, Any], trials: list[optuna.trial.FrozenTrial], url: str) -> Watched:
    about = attributes.get("about")
    ended = {trial.place: trial for one in reversed(trials) if (trial := ended_of(one, url)) is not None}
    under_way: dict[int, tuple[int, str, str]] = {}
    for trial in trials:
        if trial.state in OPEN and "place" in trial.user_attrs:
            row = read_as(Attributes, trial.user_attrs, f"trial {trial.number}", url)
            under_way.setdefault(row.place, (row.place, str(trial.params.get("methods")), row.owner))
    return Watched(
        key=read_as(dict[str, str], attributes["key"], "the key of a search", url),
        about=None if about is None else read_as(About, about, "what a search is about", url),
        baseline=read_as(float, attributes["baseline"], "the original's score", url),
        ended=tuple(ended[place] for place in sorted(ended)),
        under_way=tuple(under_way[place] for place in sorted(under_way)),
    )
