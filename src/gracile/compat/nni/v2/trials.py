"""The layers of a basic pruner as the parts of a search: how much each may lose, and what the model is worth then."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from gracile.compat.nni.common.evaluator import Evaluator
from gracile.compat.nni.common.rules import Rule
from gracile.compat.nni.v2.base import Pruner, restore, snapshot
from gracile.graph import update_by_values
from gracile.search.executors import InProcess
from gracile.search.joint import JointScores
from gracile.search.problem import Column, Ints, Problem
from gracile.search.work import Scored
from gracile.store import Store

# Of a layer with more units not every number of them is tried.
_LEVELS = 1000


class Layers:
    """The layers of a pruner, those that lose the same outputs as one."""

    def __init__(self, pruner: Pruner) -> None:
        self.pruner = pruner
        sets: dict[str, list[Rule]] = {}
        for rule in pruner._masking.rules:
            sets.setdefault(rule.dependency_group or f"={rule.name}", []).append(rule)
        self.sets = {rules[0].name: tuple(rules) for rules in sets.values()}
        self.columns = tuple(self._column(name) for name in self.sets)

    def units(self, name: str) -> int:
        """Of the layer ``name``."""
        return self.pruner._masking.blocks[name].count

    def elements(self, name: str) -> int:
        """In one unit of the layer ``name`` and of those that go with it."""
        return sum(self.pruner._masking.blocks[rule.name].elements for rule in self.sets[name])

    def _column(self, name: str) -> Column:
        rules, units = self.sets[name], self.units(name)
        runs = max(rule.runs for rule in rules)
        cap = min(rule.max_ratio for rule in rules)
        lowest = max(1, -(-(units - int(cap * units + 1e-9)) // runs)) * runs
        tenths = np.linspace(lowest // runs, units // runs, min(_LEVELS, (units - lowest) // runs) + 1)
        sizes: Ints = np.unique(np.rint(tenths).astype(np.int64)) * runs
        return Column(layer=name, sizes=sizes, costs=sizes * self.elements(name), residuals=np.zeros(len(sizes)))

    def levels(self) -> list[int]:
        """What each layer has now: as much as is not masked."""
        gone = self.pruner._masking.gone
        sizes = [self.units(column.layer) - int(gone[column.layer].sum()) for column in self.columns]
        return [
            max(int(np.searchsorted(column.sizes, size, side="right")) - 1, 0)
            for column, size in zip(self.columns, sizes, strict=True)
        ]

    def problem(self, bound: float) -> Problem:
        """How many elements of the masked parameters may stay, ``bound`` as a share of all."""
        total = sum(int(column.costs[-1]) for column in self.columns)
        return Problem(columns=self.columns, fixed=0, bound=bound * total, total=total, metric="weights")

    def ratios(self, sizes: Mapping[str, int]) -> dict[str, float]:
        """Parameter name -> the share of its units that goes when layers keep so many of them."""
        return {
            rule.name: 1 - sizes.get(name, self.units(name)) / self.units(name)
            for name, rules in self.sets.items()
            for rule in rules
        }

    def entries(self, ratios: Mapping[str, float]) -> list[dict[str, Any]]:
        """A config_list with an entry for each module."""
        return [
            {"op_names": [rule.module], "sparsity": ratios[rule.name]} for rules in self.sets.values() for rule in rules
        ]


class Trials:
    """Scores of a model with its layers at other sizes; the model is afterwards as it was."""

    def __init__(self, layers: Layers, evaluator: Evaluator, *, finetune: bool) -> None:
        """Args:
        finetune: train each model before it is scored.
        """
        self._layers = layers
        self._pruner = layers.pruner
        self._evaluator = evaluator
        self._finetune = finetune
        self._before = snapshot(self._pruner.bound_model)
        self._gone = dict(self._pruner._masking.gone)
        self._scores: Mapping[str, Tensor] | None = None

    def __call__(self, sizes: Mapping[str, int]) -> float:
        """The score with layers at these sizes; layers that are left out stay whole."""
        self.mask(self._layers.ratios(sizes))
        try:
            if self._finetune:
                self._evaluator.finetune()
            return self._evaluator.score()
        finally:
            restore(self._pruner.bound_model, self._before)

    def mask(self, ratios: Mapping[str, float]) -> None:
        """The masks of these ratios, by scores of the model as it was."""
        if self._scores is None:
            self._scores = self._pruner._scored()
            restore(self._pruner.bound_model, self._before)
        self._pruner._masking.remove(self._gone)
        self._pruner._choose(self._scores, ratios)

    @contextmanager
    def scores(self, columns: Sequence[Column], folder: Path | None, key: Mapping[str, Any]) -> Iterator[JointScores]:
        """Levels of these columns -> score; kept in a file of ``folder`` where there is one, and found there again.

        Raises:
            StoreError: the file is damaged, or holds another score of the model as it is.
        """
        with Store(None if folder is None else folder / "scores.sqlite") as store:
            job = store.job(
                {
                    "model": _digest(self._pruner.bound_model),
                    "search": json.dumps(dict(key), sort_keys=True, default=str),
                },
                self._evaluator.score(),
            )
            yield JointScores(columns, InProcess(lambda candidate: Scored(self(dict(candidate.sizes)))), job)


def _digest(model: nn.Module) -> str:
    """Of a model's values."""
    found = hashlib.sha256()
    update_by_values(found, model)
    return found.hexdigest()
