"""``nni.compression`` of NNI 3."""

from gracile.compat.nni.common.torch_evaluator import TorchEvaluator
from gracile.compat.nni.common.trainer_evaluators import LightningEvaluator, TransformersEvaluator

__all__ = ["LightningEvaluator", "TorchEvaluator", "TransformersEvaluator"]
