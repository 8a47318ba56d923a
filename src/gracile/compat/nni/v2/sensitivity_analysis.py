"""``SensitivityAnalysis``: how the metric changes while one convolution alone loses more and more."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from gracile.compat.nni.common.checking import hint, known_modules
from gracile.compat.nni.common.evaluator import as_score
from gracile.compat.nni.v2.base import Pruner
from gracile.compat.nni.v2.basic import L1NormPruner, L2NormPruner, LevelPruner
from gracile.errors import InputError
from gracile.export.files import write_rows
from gracile.progress import bar
from gracile.prune.sensitivity import EarlyStop, early_stop
from gracile.search_options import require_sparsities

_TENTHS = tuple(tenth / 10 for tenth in range(1, 10))
_PRUNERS: Mapping[str, type[Pruner]] = {"l1": L1NormPruner, "l2": L2NormPruner, "fine-grained": LevelPruner}


class SensitivityAnalysis:
    """Masks one convolution after the other at several sparsities, and validates the model each time.

    `gracile.prune.sensitivity` does the same for whole channel groups.

    Args:
        model: masked while it is validated, afterwards as it was.
        val_func: returns the metric; called with what `analysis` is given.
        sparsities: ascending, 0.1 to 0.9 where left out.
        prune_type: "l1" and "l2" mask outputs, "fine-grained" single weights.
        early_stop_mode: when a layer is done with, by ``early_stop_value``: "minimize", once the metric is below it;
            "maximize", above; "dropped" and "raised", once it has changed by more than it.

    Raises:
        InputError: an argument is wrong.
    """

    def __init__(
        self, model: nn.Module, val_func: Callable[..., float], sparsities: Sequence[float] | None = None,
        prune_type: str = "l1", early_stop_mode: EarlyStop | None = None, early_stop_value: float | None = None,
    ) -> None:  # fmt: skip
        if prune_type not in _PRUNERS:
            raise InputError(f"prune_type is {prune_type!r}{hint(prune_type, _PRUNERS)}; it is one of {list(_PRUNERS)}")
        if not callable(val_func):
            raise InputError(f"val_func is a {type(val_func).__name__}; give a function that returns the metric")
        self._sparsities = tuple(_TENTHS if sparsities is None else sparsities)
        require_sparsities(self._sparsities)
        self._stop = early_stop(early_stop_mode, early_stop_value)
        self.model = model
        self.val_func = val_func
        self._kind = _PRUNERS[prune_type]
        self.layers = {name: module for name, module in model.named_modules() if isinstance(module, _ConvNd)}
        # The metric of the model as it is; after `analysis`.
        self.ori_metric: float | None = None
        # Layer -> sparsity -> metric.
        self.sensitivities: dict[str, dict[float, float]] = {}

    @property
    def layers_count(self) -> int:
        return len(self.layers)

    def analysis(
        self,
        val_args: Sequence[Any] | None = None,
        val_kwargs: Mapping[str, Any] | None = None,
        specified_layers: Sequence[str] | None = None,
    ) -> dict[str, dict[float, float]]:
        """Layer -> sparsity -> ``val_func(*val_args, **val_kwargs)``.

        Args:
            specified_layers: names of convolutions; all where left out.

        Raises:
            InputError: a name is unknown.
            EvaluationError: ``val_func`` returned no finite number.
        """
        names = list(self.layers) if specified_layers is None else list(specified_layers)
        known_modules("analysis", "specified_layers", names, self.layers)

        def metric() -> float:
            with torch.no_grad():
                return as_score(self.val_func(*(val_args or ()), **(val_kwargs or {})))

        self.ori_metric = metric()
        with bar("sensitivity", len(names) * len(self._sparsities)) as progress:
            for name in names:
                found = self.sensitivities.setdefault(name, {})
                for sparsity in self._sparsities:
                    pruner = self._kind(self.model, [{"op_names": [name], "sparsity": sparsity}])
                    try:
                        pruner.compress()
                        found[sparsity] = metric()
                    finally:
                        pruner.unwrap_model()
                    progress.advance(f"{name} at {sparsity:g}")
                    if self._stop(found[sparsity], self.ori_metric):
                        break
        return self.sensitivities

    def export(self, filepath: str | PathLike[str]) -> None:
        """Write a table with a row for each layer and a column for each sparsity.

        Raises:
            FileError: the file cannot be written.
        """
        rows = [
            [name, *(found.get(sparsity, "") for sparsity in self._sparsities)]
            for name, found in self.sensitivities.items()
        ]
        write_rows(filepath, [["layername", *self._sparsities], *rows])
