"""``nni.algorithms.compression.v2.pytorch`` of NNI 2.6 to 2.8."""

from gracile.compat.nni.common.torch_evaluator import CriterionEvaluator as TorchEvaluator
from gracile.compat.nni.common.trainer_evaluators import LightningEvaluator, TransformersEvaluator

__all__ = ["LightningEvaluator", "TorchEvaluator", "TransformersEvaluator"]
