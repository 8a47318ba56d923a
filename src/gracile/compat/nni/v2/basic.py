"""NNI 2's pruners that choose masks once: by weights, by what training shows, or by scales that it shrinks."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from gracile.compat.nni.common.checking import count
from gracile.compat.nni.common.evaluator import Evaluator
from gracile.compat.nni.common.masking import Masking
from gracile.compat.nni.common.scoring import OutputScores, Scoring, TaylorScores, WeightScores
from gracile.compat.nni.v2.base import Pruner, Training
from gracile.errors import InputError
from gracile.maths import criteria
from gracile.maths.sparse import keep_balanced
from gracile.session.regularizers import Slim, Slimming


class LevelPruner(Pruner):
    """Masks single weights of the least magnitude.

    Han et al., "Learning both Weights and Connections for Efficient Neural Networks", 2015, arXiv:1506.02626; with
    ``mode="balance"`` the same number in every tile of ``balance_gran`` along the last axes (Yao et al., "Balanced
    Sparsity for Efficient DNN Inference on GPU", 2019, arXiv:1811.00206).

    Args:
        model: masked in place.
        config_list: of NNI 2.
        mode: "normal" or "balance".
        balance_gran: the sizes of a tile, as [5, 5].

    Raises:
        InputError: an argument or an entry of the config_list is wrong, or tiles do not divide a weight.
    """

    _default = "element"
    _modes = ("normal", "balance")

    def __init__(
        self, model: nn.Module, config_list: list[dict[str, Any]], mode: str = "normal",
        balance_gran: list[int] | None = None,
    ) -> None:  # fmt: skip
        self._tile = None
        if mode == "balance":
            sizes = balance_gran if isinstance(balance_gran, list | tuple) else ()
            self._tile = tuple(count("LevelPruner", "balance_gran", size) for size in sizes)
            if not self._tile:
                raise InputError(f"balance_gran is {balance_gran!r}; mode='balance' needs a tile, as [4, 4]")
        super().__init__(model, config_list, mode=mode)

    def _allocate(self, scores: Any) -> None:
        if self._tile is None:
            super()._allocate(scores)
            return
        gone = {}
        for rule in self._masking.rules:
            assert rule.ratio is not None
            values = scores[rule.name].double()
            values = values.masked_fill(self._gone(rule.name, values), -torch.inf)
            grid = self._masking.blocks[rule.name].grid(values)
            try:
                gone[rule.name] = ~keep_balanced(grid, self._tile, rule.ratio)
            except InputError as error:
                raise InputError(f"{rule.where}: {rule.name}: {error}") from error
        self._masking.remove(gone)


class _Filters(Pruner):
    """Masks whole outputs of convolutions and linear layers by their weights."""

    _kinds = (nn.Linear, _ConvNd)

    def __init__(
        self, model: nn.Module, config_list: list[dict[str, Any]], mode: str = "normal", dummy_input: Any = None
    ) -> None:
        super().__init__(model, config_list, None, mode, dummy_input)


class L1NormPruner(_Filters):
    """Masks outputs whose weights have the least sum of magnitudes (`gracile.maths.criteria.l1`).

    Args:
        mode: with "dependency_aware" layers whose outputs are added or multiplied lose the same ones, by the sum of
            their scores and the least of their sparsities, and grouped convolutions the same positions of each group.
        dummy_input: for "dependency_aware", what the model can be called with.

    Raises:
        InputError: an argument or an entry of the config_list is wrong.
        CaptureError: the model cannot be captured.
    """


class L2NormPruner(_Filters):
    """Masks outputs whose weights have the least Euclidean norm (`gracile.maths.criteria.l2`); see `L1NormPruner`."""

    def _scoring(self) -> Scoring:
        return WeightScores(self._masking, criteria.l2)


class FPGMPruner(_Filters):
    """Masks outputs whose weights lie nearest to all others (`gracile.maths.criteria.fpgm`); see `L1NormPruner`."""

    def _scoring(self) -> Scoring:
        return WeightScores(self._masking, criteria.fpgm)


class SlimPruner(Training):
    """Trains with ``scale`` times the sum of the batch-norms' |gamma|, then masks channels whose gamma is least.

    Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", 2017, arXiv:1708.06519.

    Args:
        training_epochs: how long to train.
        mode: "global" ranks all channels together, with ``total_sparsity``; "normal" each layer's.

    Raises:
        InputError: an argument or an entry of the config_list is wrong, or names no batch-norm.
    """

    _modes = ("global", "normal")
    _kinds = (_BatchNorm,)

    def __init__(
        self, model: nn.Module, config_list: list[dict[str, Any]], evaluator: Evaluator, training_epochs: int,
        scale: float = 1e-4, mode: str = "global",
    ) -> None:  # fmt: skip
        self._options = Slim(scale=scale)
        epochs = count("SlimPruner", "training_epochs", training_epochs)
        super().__init__(model, config_list, evaluator, mode, None, training_epochs=epochs)

    def _scoring(self) -> Scoring:
        return _Scales(self._masking, self._options)


class _Scales(WeightScores):
    """|gamma|, which a term of the loss shrinks."""

    def __init__(self, masking: Masking, options: Slim) -> None:
        super().__init__(masking, criteria.batch_norm_scale)
        self._term = Slimming(masking.model, list(masking.blocks), options)

    def penalty(self) -> Tensor | float:
        return self._term.penalty()


class _Activations(Training):
    """Masks outputs by what an activation makes of them in training."""

    _kinds = (nn.Linear, _ConvNd)

    def __init__(
        self, model: nn.Module, config_list: list[dict[str, Any]], evaluator: Evaluator, training_steps: int,
        activation: str = "relu", mode: str = "normal", dummy_input: Any = None,
    ) -> None:  # fmt: skip
        self._activation = activation
        OutputScores.require_activation(activation)
        steps = count(type(self).__name__, "training_steps", training_steps)
        super().__init__(model, config_list, evaluator, mode, dummy_input, training_steps=steps)


class ActivationAPoZRankPruner(_Activations):
    """Masks outputs that an activation makes zero most often.

    Hu et al., "Network Trimming", 2016, arXiv:1607.03250: APoZ (`gracile.maths.criteria.zero_share`), over
    ``training_steps`` steps of training; outputs of the layers may have any rank.

    Args:
        activation: "relu", "relu6" or "gelu", put on the layers' outputs.
        mode, dummy_input: see `L1NormPruner`.

    Raises:
        InputError: an argument or an entry of the config_list is wrong, or the training shows nothing.
    """

    def _scoring(self) -> Scoring:
        return OutputScores(self._masking, self._activation, "apoz")


class ActivationMeanRankPruner(_Activations):
    """Masks outputs whose mean after an activation is least.

    Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", 2017, arXiv:1611.06440,
    section 2.2, "Activation"; see `ActivationAPoZRankPruner`.
    """

    def _scoring(self) -> Scoring:
        return OutputScores(self._masking, self._activation, "mean")


class TaylorFOWeightPruner(Training):
    """Masks outputs that the loss would miss least to first order (`gracile.maths.criteria.taylor`).

    Args:
        training_steps: steps of training in which gradients are gathered.
        mode: "normal", "dependency_aware" (see `L1NormPruner`), or "global", which ranks all outputs together with
            ``total_sparsity``.

    Raises:
        InputError: an argument or an entry of the config_list is wrong, or the training shows nothing.
    """

    _modes = ("normal", "dependency_aware", "global")
    _kinds = (nn.Linear, _ConvNd)

    def __init__(
        self, model: nn.Module, config_list: list[dict[str, Any]], evaluator: Evaluator, training_steps: int,
        mode: str = "normal", dummy_input: Any = None,
    ) -> None:  # fmt: skip
        steps = count("TaylorFOWeightPruner", "training_steps", training_steps)
        super().__init__(model, config_list, evaluator, mode, dummy_input, training_steps=steps)

    def _scoring(self) -> Scoring:
        return TaylorScores(self._masking)
