"""How the scores of units come about while a model trains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from gracile.errors import InputError
from gracile.graph import Graph
from gracile.prune.gathering import Gathering, gathering_for
from gracile.prune.products import Products, all_finite
from gracile.prune.scores import Criterion, Scores, named, scores_of_units
from gracile.prune.units import Units
from gracile.session.processes import mean_over_processes
from gracile.simulation import Simulation


class Scoring(Protocol):
    """The scores of some units, now."""

    def term(self, device: torch.device) -> Tensor | float:
        """Zero, to be added to the loss (`gracile.prune.products.LossScale`)."""

    def step(self) -> None:
        """A step of the optimizer is done."""

    def scores(self) -> dict[str, Scores]: ...

    def renew(self) -> None:
        """Forget what was seen: the masks have changed."""

    def close(self) -> None: ...


class FromWeights:
    """A criterion that looks at the weights alone."""

    def __init__(
        self, model: nn.Module, graph: Graph, units: Sequence[Units], criterion: str | Criterion, seed: int
    ) -> None:
        self._model = model
        self._graph = graph
        self._units = units
        self._criterion = criterion
        self._seed = seed

    def term(self, device: torch.device) -> float:  # noqa: ARG002
        return 0.0

    def step(self) -> None:
        """Nothing is gathered."""

    def scores(self) -> dict[str, Scores]:
        return scores_of_units(self._model, self._graph, self._units, self._criterion, self._seed)

    def renew(self) -> None:
        """Nothing was gathered."""

    def close(self) -> None:
        """Nothing was put on the model."""


class FromData:
    """A criterion that looks at what layers read or at gradients, gathered between two updates of the masks."""

    def __init__(self, model: nn.Module, graph: Graph, units: Sequence[Units], criterion: str) -> None:
        self._model = model
        self._graph = graph
        self._units = units
        self._criterion = criterion
        self._names = list(dict.fromkeys(name for item in units for name in item.tensors))
        self._gathering: Gathering = gathering_for(criterion, model, self._names)

    def term(self, device: torch.device) -> Tensor | float:
        return self._gathering.term(device)

    def step(self) -> None:
        self._gathering.flush()

    def scores(self) -> dict[str, Scores]:
        """The scores by what was seen.

        Raises:
            InputError: nothing was seen.
        """
        statistics = self._gathering.statistics()
        if not statistics:
            raise InputError(_unseen(self._criterion))
        joined = mean_over_processes(statistics)
        return scores_of_units(self._model, self._graph, self._units, self._criterion, statistics=joined)

    def renew(self) -> None:
        self._gathering.close()
        self._gathering = gathering_for(self._criterion, self._model, self._names)

    def close(self) -> None:
        self._gathering.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """Scores that are learned in training: units whose weights move away from zero gain.

    Sanh et al., "Movement Pruning: Adaptive Sparsity by Fine-Tuning", 2020, arXiv:2005.07683, equations 2 and 4:
    S = -sum_t (dL/dW) W, of a unit the sum over its weights, as the gradient passes straight through the mask to S.
    Lagunas et al., "Block Pruning For Faster Transformers", 2021, arXiv:2109.04838, takes blocks as units.

    Raises:
        InputError: a number is out of range.
    """

    # The learning rate of the scores, which Adam updates.
    rate: float = 1e-2
    # Soft: units whose sigmoid(S) is at most this go, and the sparsity follows; None removes the share that the
    # schedule says (hard).
    threshold: float | None = None
    # Of the penalty on the mean of sigmoid(S), which pushes soft scores below the threshold.
    scale: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.rate, bool) or not isinstance(self.rate, int | float) or not 0 < self.rate < inf:
            raise InputError(f"the rate of movement scores is {self.rate!r}; give a number above 0")
        soft = self.threshold
        if soft is not None and not (isinstance(soft, int | float) and 0 < soft < 1):
            raise InputError(f"the threshold of movement scores is {self.threshold!r}; give a number in (0, 1)")
        if isinstance(self.scale, bool) or not isinstance(self.scale, int | float) or not 0 <= self.scale < inf:
            raise InputError(f"the scale of the movement penalty is {self.scale!r}; give a number from 0")


class FromMovement:
    """See `Movement`."""

    def __init__(self, model: nn.Module, units: Sequence[Units], options: Movement) -> None:
        self._units = units
        self._options = options
        device = next(model.parameters()).device
        self._values = {item.name: torch.zeros(item.count, device=device, requires_grad=True) for item in units}
        self._optimizer = torch.optim.Adam(self._values.values(), lr=options.rate)
        self._products = Products(model, {name for item in units for name in item.tensors})
        # How much of the penalty counts, from 0 to 1.
        self.strength = 0.0
        self._learned = False

    def term(self, device: torch.device) -> Tensor:
        return self._products.scale.term(device)

    def step(self) -> None:
        products = mean_over_processes(self._products.taken())
        # A gradient scaler leaves out the steps whose gradients overflow, in all processes.
        if not products or not all_finite(products.values()):
            return
        self._learned = True
        total = sum(item.count for item in self._units)
        for item in self._units:
            value = self._values[item.name]
            value.grad = self._gradient(item, products, value)
            if self._options.scale:
                sigmoid = value.detach().sigmoid()
                value.grad += self._options.scale * self.strength * sigmoid * (1 - sigmoid) / total
        self._optimizer.step()

    @staticmethod
    def _gradient(item: Units, products: Mapping[str, Tensor], value: Tensor) -> Tensor:
        parts = [
            matrix.sum(1) for name in item.tensors if name in products for matrix in item.matrices(name, products[name])
        ]
        return torch.stack(parts).sum(0).to(value) if parts else torch.zeros_like(value)

    def scores(self) -> dict[str, Scores]:
        """The scores as they are.

        Raises:
            InputError: no step has changed them.
        """
        if not self._learned:
            raise InputError(_unseen("movement"))
        return {name: value.detach().double().cpu().numpy() for name, value in self._values.items()}

    def below(self) -> dict[str, float]:
        """Units' name -> the share of them at or below the threshold."""
        limit = self._options.threshold
        assert limit is not None
        bound = float(np.log(limit / (1 - limit)))
        return {name: float((scores <= bound).mean()) for name, scores in self.scores().items()}

    def renew(self) -> None:
        """Scores go on: what moved before counts."""

    def close(self) -> None:
        self._products.close()


def _unseen(criterion: str) -> str:
    return (
        f"criterion={criterion!r} has seen no training step since the last update of the masks: call model.train(), "
        "and run.step() after each step of the optimizer, or start the schedule later; steps whose gradients overflow "
        "do not count"
    )


def scoring_for(
    model: nn.Module,
    graph: Graph,
    units: Sequence[Units],
    criterion: str | Criterion,
    movement: Movement,
    seed: int,
) -> Scoring:
    """The scoring of a criterion; the model has gates on the tensors of ``units``.

    Raises:
        InputError: the criterion is unknown, or none for training; or it looks at what layers read, and the model is a
            simulation.
    """
    if criterion == "movement":
        return FromMovement(model, units, movement)
    if named(criterion).needs_data:
        if isinstance(model, Simulation) and named(criterion).sees == "inputs":
            raise InputError(
                f"criterion={criterion!r} watches what layers read, and a simulation runs its program without calling "
                "them: take a criterion of weights or gradients, such as 'l2' or 'taylor', or prune before quantizing"
            )
        return FromData(model, graph, units, str(criterion))
    return FromWeights(model, graph, units, criterion, seed)
