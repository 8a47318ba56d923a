"""What NNI 2's iterative pruners have in common: a copy to work on, a best result, and a folder for it where asked."""

import copy
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from gracile.compat.nni.common.evaluator import Evaluator, require_evaluator
from gracile.compat.nni.common.masking import Masks
from gracile.compat.nni.common.speedup import ModelSpeedup
from gracile.compat.nni.v2.algorithms import ALGORITHMS, Maker, maker, parameters_of
from gracile.compat.nni.v2.former import modern
from gracile.errors import FileError, InputError
from gracile.export.files import write_bytes, write_tensors
from gracile.surgery import applied_since

log = logging.getLogger(__name__)


class Result(NamedTuple):
    """A model and how it came about; unpacks as NNI's tuple does."""

    task_id: int
    # Without masks on it; zeros stand where they were.
    compact_model: nn.Module
    masks: Masks
    # What the evaluator says of it; None where it does not evaluate.
    score: float | None
    config_list: list[dict[str, Any]]


class IterativePruner(ABC):
    """Prunes in several rounds, or tries many models.

    The given model stays as it is: rounds work on a copy, whose parameters the evaluator's optimizers get meanwhile.
    """

    _allowed: tuple[str, ...] = tuple(ALGORITHMS)

    def __init__(
        self,
        model: nn.Module,
        config_list: list[dict[str, Any]],
        pruning_algorithm: str,
        pruning_params: Mapping[str, Any] | None,
        evaluator: Evaluator | None,
        *,
        log_dir: str | PathLike[str] | None,
        keep_intermediate_result: bool,
        speedup: bool,
    ) -> None:
        require_evaluator(evaluator)
        parameters = modern(parameters_of(pruning_params))
        if keep_intermediate_result and log_dir is None:
            raise InputError("keep_intermediate_result=True needs log_dir, the folder to keep the results in")
        if speedup and (evaluator is None or evaluator.get_dummy_input() is None):
            raise InputError("speedup=True follows channels through the model: give an evaluator with dummy_input")
        self.bound_model = model
        self.config_list = config_list
        self.evaluator = evaluator
        self._log_dir = None if log_dir is None else Path(log_dir)
        self._keep = keep_intermediate_result
        self._speedup = speedup
        self._evaluators = {id(item): item for item in (evaluator, parameters.get("evaluator")) if item is not None}
        self._make: Maker = maker(pruning_algorithm, parameters, evaluator, self._allowed)
        for item in self._evaluators.values():
            item.bind_model(model)
        # What is wrong in the config_list or the parameters shows now.
        self._make(model, config_list).unwrap_model()
        self._result: Result | None = None

    def compress(self) -> tuple[nn.Module, Masks]:
        """Run all rounds.

        Returns:
            The model of the best result, and its masks.

        Raises:
            InputError: the training shows nothing.
            EvaluationError: the evaluation function returned no number.
        """
        with self._copied() as model:
            self._result = self._run(model)
        if self._log_dir is not None:
            self._write("best_result", "best_", self._result)
        return self._result.compact_model, self._result.masks

    def get_best_result(self) -> Result:
        """The number of the round, the model, its masks, its score and the config_list that it meets.

        Raises:
            InputError: `compress` was not called.
        """
        if self._result is None:
            raise InputError("there is no result yet; call compress() first")
        return self._result

    @abstractmethod
    def _run(self, model: nn.Module) -> Result:
        """All rounds, on a model that may be changed."""

    @contextmanager
    def _copied(self) -> Iterator[nn.Module]:
        """A copy of the model, which all evaluators train meanwhile."""
        for item in self._evaluators.values():
            item.bind_model(self.bound_model)
        model = copy.deepcopy(self.bound_model)
        with ExitStack() as stack:
            for item in self._evaluators.values():
                stack.enter_context(item.moved(model))
            yield model

    def _evaluated(self) -> float | None:
        """What the evaluator says of the model now; None where it does not evaluate."""
        return self.evaluator.score() if self.evaluator is not None and self.evaluator.evaluates else None

    def _finetune(self) -> None:
        if self.evaluator is not None:
            self.evaluator.finetune()

    def _require_evaluation(self) -> Evaluator:
        if self.evaluator is None or not self.evaluator.evaluates:
            raise InputError(
                f"{type(self).__name__} compares models: give an evaluator with evaluating_func, which returns a number"
            )
        return self.evaluator

    def _shrink(self, model: nn.Module, masks: Masks) -> None:
        """Cut ``model``, without masks on it, in place."""
        assert self.evaluator is not None
        ModelSpeedup(model, self.evaluator.get_dummy_input(), masks).speedup_model()
        for item in self._evaluators.values():
            item.retarget(model)

    def _note(self, result: Result) -> None:
        """Keep what one round gave, where asked."""
        log.info("round %d: score %s", result.task_id, result.score)
        if self._keep:
            self._write(f"intermediate_result/{result.task_id}", "", result)

    def _write(self, folder: str, prefix: str, result: Result) -> None:
        assert self._log_dir is not None
        place = self._log_dir / folder
        try:
            place.mkdir(parents=True, exist_ok=True)
            write_tensors(place / f"{prefix}model.pth", result.compact_model.state_dict())
            write_tensors(place / f"{prefix}masks.pth", result.masks)
            cuts = applied_since(result.compact_model, self.bound_model)
            if cuts.edits:
                # `gracile.apply` on a fresh model makes the shapes that the state_dict has.
                write_bytes(place / f"{prefix}plan.json", cuts.to_json().encode())
            write_bytes(place / "config_list.json", json.dumps(result.config_list, indent=1).encode())
        except OSError as error:
            raise FileError(f"log_dir: {place} cannot be written: {error}") from error


def scaled(config_list: Sequence[Mapping[str, Any]], change: Any) -> list[dict[str, Any]]:
    """The config_list with ``change`` on each sparsity."""
    names = ("sparsity", "sparsity_per_layer", "total_sparsity")
    return [
        {key: change(float(value)) if key in names else value for key, value in entry.items()} for entry in config_list
    ]
