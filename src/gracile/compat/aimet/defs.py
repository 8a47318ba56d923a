"""What ``aimet_torch.defs`` holds: the parameters of each compression scheme."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from torch import nn

from gracile.compat.aimet.common.defs import (
    GreedySelectionParameters,
    RankSelectScheme,
    Ratio,
    TarRankSelectionParameters,
)

__all__ = [
    "ChannelPruningParameters",
    "GreedySelectionParameters",
    "ModuleCompRatioPair",
    "RankSelectScheme",
    "SpatialSvdParameters",
    "TarRankSelectionParameters",
    "WeightSvdParameters",
]

SelectParams: TypeAlias = GreedySelectionParameters | TarRankSelectionParameters


@dataclass
class ModuleCompRatioPair:
    """A module of the model, and the share of its cost that remains, or for channel pruning that of the channels that
    it reads; None leaves it as it is.
    """

    module: nn.Module
    comp_ratio: Ratio | None


class CompressionMode(Enum):
    """Ratios by hand, or found."""

    manual = 1
    auto = 2


@dataclass
class ManualRatios:
    """Layers that are compressed, each with its ratio; all others stay as they are.

    Channels that a layer shall read no longer go from all that writes and reads them.
    """

    list_of_module_comp_ratio_pairs: list[ModuleCompRatioPair]


@dataclass
class SelectedRatios:
    """A search, without the modules to ignore."""

    # Greedy in AIMET; TAR parameters are accepted, too.
    greedy_select_params: SelectParams
    modules_to_ignore: list[nn.Module] | None = None

    @property
    def select_params(self) -> SelectParams:
        return self.greedy_select_params


@dataclass
class SchemeSelectedRatios:
    """A search that is named besides its parameters, without the modules to ignore."""

    rank_select_scheme: RankSelectScheme
    select_params: SelectParams
    modules_to_ignore: list[nn.Module] | None = None


@dataclass
class SpatialSvdParameters:
    """Spatial SVD of two-dimensional convolutions: (kh x kw) becomes (kh x 1), then (1 x kw)."""

    Mode = CompressionMode
    ManualModeParams = ManualRatios
    AutoModeParams = SelectedRatios

    mode: CompressionMode
    params: ManualRatios | SelectedRatios
    # Ranks land on multiples of this.
    multiplicity: int = 1


@dataclass
class WeightSvdParameters:
    """Weight SVD of convolutions and linear layers: one with kernel 1, then one with the original kernel."""

    Mode = CompressionMode
    ManualModeParams = ManualRatios
    AutoModeParams = SchemeSelectedRatios

    mode: CompressionMode
    params: ManualRatios | SchemeSelectedRatios
    # Ranks land on multiples of this.
    multiplicity: int = 1


@dataclass
class ChannelPruningParameters:
    """Channel pruning: the share of the channels that convolutions read, with the readers rebuilt by least squares."""

    Mode = CompressionMode
    ManualModeParams = ManualRatios
    AutoModeParams = SelectedRatios

    # Batches, alone or as (inputs, labels); neither a length nor a batch size is asked for.
    data_loader: Iterable[Any]
    # AIMET draws ten output pixels of each image: N stands for N / 10 images, and for 128 of them at the least, as
    # far as the loader has so many.  All their pixels are used.
    num_reconstruction_samples: int
    # Has no effect: what belongs together is cut together, so that no index operation is ever needed.
    allow_custom_downsample_ops: bool
    mode: CompressionMode
    params: ManualRatios | SelectedRatios
    # The numbers of channels land on multiples of this.
    multiplicity: int = 1
