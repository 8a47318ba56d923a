"""AIMET's documented compression calls, carried out by `gracile.compress`.

``aimet_torch`` becomes ``gracile.compat.aimet`` and ``aimet_common`` becomes ``gracile.compat.aimet.common``.
"""

from gracile.compat.aimet.common.defs import (
    CompressionScheme,
    CompressionStats,
    CostMetric,
    EvalFunction,
    GreedyCompressionRatioSelectionStats,
    GreedySelectionParameters,
    RankSelectScheme,
    TarCompressionRatioSelectionStats,
    TarRankSelectionParameters,
)
from gracile.compat.aimet.compress import ModelCompressor
from gracile.compat.aimet.defs import (
    ChannelPruningParameters,
    ModuleCompRatioPair,
    SpatialSvdParameters,
    WeightSvdParameters,
)
from gracile.compat.aimet.visualize_serialized_data import VisualizeCompression
from gracile.compat.aimet.winnow.winnow import winnow_model

__all__ = [
    "ChannelPruningParameters",
    "CompressionScheme",
    "CompressionStats",
    "CostMetric",
    "EvalFunction",
    "GreedyCompressionRatioSelectionStats",
    "GreedySelectionParameters",
    "ModelCompressor",
    "ModuleCompRatioPair",
    "RankSelectScheme",
    "SpatialSvdParameters",
    "TarCompressionRatioSelectionStats",
    "TarRankSelectionParameters",
    "VisualizeCompression",
    "WeightSvdParameters",
    "winnow_model",
]
