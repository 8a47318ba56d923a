"""``nni.contrib.compression``, where NNI 3 stood before its release."""

from gracile.compat.nni.common.torch_evaluator import TorchEvaluator
from gracile.compat.nni.common.trainer_evaluators import LightningEvaluator, TransformersEvaluator

__all__ = ["LightningEvaluator", "TorchEvaluator", "TransformersEvaluator"]
