"""``nni.compression.pytorch`` of NNI 2."""

from gracile.compat.nni.common.speedup import ModelSpeedup
from gracile.compat.nni.common.torch_evaluator import CriterionEvaluator as TorchEvaluator
from gracile.compat.nni.common.trainer_evaluators import LightningEvaluator, TransformersEvaluator

__all__ = ["LightningEvaluator", "ModelSpeedup", "TorchEvaluator", "TransformersEvaluator"]
