"""What ``aimet_common.defs`` (once ``aimet_torch.common.defs``) holds: enumerations and search parameters."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from os import PathLike
from typing import Any, TypeAlias

from gracile.compat.aimet.common.quantization import CallbackFunc, QuantizationDataType, QuantScheme
from gracile.compat.aimet.common.stats import (
    CompressionStats,
    GreedyCompressionRatioSelectionStats,
    TarCompressionRatioSelectionStats,
)
from gracile.errors import InputError

__all__ = [
    "CallbackFunc",
    "CompressionScheme",
    "CompressionStats",
    "CostMetric",
    "EvalFunction",
    "GreedyCompressionRatioSelectionStats",
    "GreedySelectionParameters",
    "QuantScheme",
    "QuantizationDataType",
    "RankSelectScheme",
    "TarCompressionRatioSelectionStats",
    "TarRankSelectionParameters",
]

# evaluate(model, iterations, use_cuda) -> score, larger is better; iterations None means all data.
EvalFunction: TypeAlias = Callable[[Any, Any, bool], float]

# AIMET's examples write ratios as Decimal.
Ratio: TypeAlias = float | Decimal


class CostMetric(Enum):
    """What a compression ratio is a ratio of."""

    # Multiply-accumulates.
    mac = 1
    # Parameters, all of them; AIMET leaves out biases and whatever is no convolution or linear layer.
    memory = 2


class CompressionScheme(Enum):
    """How layers are made smaller."""

    weight_svd = 1
    spatial_svd = 2
    channel_pruning = 3


class RankSelectScheme(Enum):
    """How the ranks of the layers are found."""

    greedy = 1
    tar = 2


@dataclass
class GreedySelectionParameters:
    """Greedy selection: the layers' ratios by one common score.

    Raises:
        InputError: a ratio outside (0, 1], or fewer than two candidates.
    """

    # Cost of the compressed model / cost of the original.
    target_comp_ratio: Ratio
    # N stands for the candidate ratios 1/N, 2/N ... (N-1)/N of each layer.
    num_comp_ratio_candidates: int = 10
    # Fit a monotone curve to each layer's scores (isotonic regression).
    use_monotonic_fit: bool = False
    # The JSON file of an earlier run: no candidate is evaluated then, and the number of candidates is the file's.
    saved_eval_scores_dict: str | PathLike[str] | None = None

    def __post_init__(self) -> None:
        ratio_of(self.target_comp_ratio, "target_comp_ratio")
        _require_two("num_comp_ratio_candidates", self.num_comp_ratio_candidates)


@dataclass
class TarRankSelectionParameters:
    """TAR selection: the best of ``num_rank_indices`` relative residuals that all layers have in common.

    Raises:
        InputError: fewer than two indices.
    """

    num_rank_indices: int

    def __post_init__(self) -> None:
        _require_two("num_rank_indices", self.num_rank_indices)


def ratio_of(value: Ratio, name: str) -> float:
    """``value`` as a float.

    Raises:
        InputError: it is no number in (0, 1].
    """
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or not 0 < value <= 1:
        raise InputError(f"{name} is {value!r}; it is compressed cost / original cost, a number in (0, 1]")
    return float(value)


def _require_two(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 2:
        raise InputError(f"{name} is {value!r}; it is an integer of at least 2")
