"""AIMET's documented calls: compression, carried out by `gracile.compress`, and quantization, by `gracile.quant`.

``aimet_torch`` becomes ``gracile.compat.aimet`` and ``aimet_common`` becomes ``gracile.compat.aimet.common``.
"""

from gracile.compat.aimet.adaround.adaround_weight import Adaround, AdaroundParameters
from gracile.compat.aimet.auto_quant import AutoQuant
from gracile.compat.aimet.batch_norm_fold import fold_all_batch_norms
from gracile.compat.aimet.bias_correction import correct_bias
from gracile.compat.aimet.bn_reestimation import reestimate_bn_stats
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
from gracile.compat.aimet.common.quantization import CallbackFunc, QuantScheme
from gracile.compat.aimet.compress import ModelCompressor
from gracile.compat.aimet.cross_layer_equalization import equalize_model
from gracile.compat.aimet.defs import (
    ChannelPruningParameters,
    ModuleCompRatioPair,
    SpatialSvdParameters,
    WeightSvdParameters,
)
from gracile.compat.aimet.mixed_precision import choose_mixed_precision
from gracile.compat.aimet.model_preparer import prepare_model
from gracile.compat.aimet.model_validator.model_validator import ModelValidator
from gracile.compat.aimet.quant_analyzer import QuantAnalyzer
from gracile.compat.aimet.quantsim import QuantizationSimModel, QuantParams
from gracile.compat.aimet.seq_mse import SeqMseParams, apply_seq_mse
from gracile.compat.aimet.visualize_serialized_data import VisualizeCompression
from gracile.compat.aimet.winnow.winnow import winnow_model

__all__ = [
    "Adaround",
    "AdaroundParameters",
    "AutoQuant",
    "CallbackFunc",
    "ChannelPruningParameters",
    "CompressionScheme",
    "CompressionStats",
    "CostMetric",
    "EvalFunction",
    "GreedyCompressionRatioSelectionStats",
    "GreedySelectionParameters",
    "ModelCompressor",
    "ModelValidator",
    "ModuleCompRatioPair",
    "QuantAnalyzer",
    "QuantParams",
    "QuantScheme",
    "QuantizationSimModel",
    "RankSelectScheme",
    "SeqMseParams",
    "SpatialSvdParameters",
    "TarCompressionRatioSelectionStats",
    "TarRankSelectionParameters",
    "VisualizeCompression",
    "WeightSvdParameters",
    "apply_seq_mse",
    "choose_mixed_precision",
    "correct_bias",
    "equalize_model",
    "fold_all_batch_norms",
    "prepare_model",
    "reestimate_bn_stats",
    "winnow_model",
]
