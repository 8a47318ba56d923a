"""NNI 3's quantizers over simulations of gracile."""

import logging
from collections.abc import Mapping
from os import PathLike
from typing import Any, ClassVar

from torch import nn

from gracile.compat.nni.common.evaluator import Evaluator, require_evaluator
from gracile.compat.nni.common.feeding import batches_of, example_of
from gracile.compat.nni.common.quant_formats import fitted
from gracile.compat.nni.common.quant_rules import quant_rules
from gracile.compat.nni.common.quant_sites import CalibrationConfig
from gracile.compat.nni.common.quantizing import Quantized, export_files
from gracile.compat.nni.common.trainer_evaluators import LightningEvaluator
from gracile.errors import InputError
from gracile.quant.bias_correction import correct_bias
from gracile.quant.training import QuantizedTraining, Training

log = logging.getLogger(__name__)

__all__ = [
    "BNNQuantizer",
    "DoReFaQuantizer",
    "LsqPlusQuantizer",
    "LsqQuantizer",
    "PtqQuantizer",
    "QATQuantizer",
    "Quantizer",
]


class Quantizer:
    """What NNI 3's quantizers share.

    `compress` returns a `gracile.simulation.Simulation` of the model, which is called as the model is; the model
    itself stays as it is, where NNI wraps its modules.  The evaluator's optimizers train the simulation's parameters
    of the same names, and what is learned of ranges.  Batch-norms are folded.

    Args:
        model: the floating-point model.
        config_list: NNI 3's entries, or earlier ones; see `gracile.compat.nni.common.quant_rules.quant_rules`.
        evaluator: a TorchEvaluator or TransformersEvaluator.  Its ``dummy_input`` is the example on which the model is
            captured; without one the first batch of its functions is.  Ranges start from what its evaluation reads, or
            from eight batches of training where it has none.

    Raises:
        InputError: an argument is wrong.
    """

    _method: ClassVar[Training] = "qat"
    _observer: ClassVar[str] = "minmax"

    def __init__(
        self, model: nn.Module, config_list: list[dict[str, Any]], evaluator: Evaluator, quant_start_step: int = 0
    ) -> None:
        rules = quant_rules(model, config_list)
        require_evaluator(evaluator)
        if evaluator is None or isinstance(evaluator, LightningEvaluator):
            raise InputError(
                f"{type(self).__name__} trains a captured program: give a TorchEvaluator(training_func, optimizer, "
                "training_step); a LightningEvaluator would need its LightningModule"
            )
        if isinstance(quant_start_step, bool) or not isinstance(quant_start_step, int) or quant_start_step < 0:
            raise InputError(f"quant_start_step is {quant_start_step!r}; give a number of steps from 0")
        self.bound_model: nn.Module = model
        self.config_list = config_list
        self.evaluator = evaluator
        self._original = model
        self._rules = fitted(rules, self._method)
        self._start = max(quant_start_step, rules.start)
        self._quantized: Quantized | None = None
        evaluator.bind_model(model)

    def compress(
        self, max_steps: int | None = None, max_epochs: int | None = None
    ) -> tuple[nn.Module, CalibrationConfig]:
        """Train with quantizers, so long; as long as the user's training goes where neither is given.

        Returns:
            The simulation, and what `get_calibration_config` gives.

        Raises:
            InputError: the functions do not call the model, or a format does not fit.
            CaptureError: the model cannot be captured.
        """
        quantized = self._calibrated()
        run = QuantizedTraining(self._method, start=self._start).prepare(quantized.simulation)
        self.evaluator.retarget(quantized.simulation)
        names = {name for name, _ in self._original.named_parameters()}
        self.evaluator.train_also(quantized.added_parameters(names))
        try:
            with self.evaluator.watched(after_step=run.step):
                self.evaluator.train(max_steps, max_epochs)
        finally:
            run.finish()
        return quantized.simulation, quantized.config()

    def get_calibration_config(self) -> CalibrationConfig:
        """Module -> target -> scale, zero_point, quant_dtype, quant_scheme, quant_bits, tracked_min, tracked_max.

        Raises:
            InputError: before `compress`.
        """
        return self._ready().config()

    def update_calibration_config(self, calibration_config: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        """Take over scales and zero points that `get_calibration_config` gave; makes the simulation where there is
        none yet.

        Raises:
            InputError: they do not fit.
        """
        if self._quantized is None:
            self._calibrated()
        self._ready().update(calibration_config)

    def unwrap_model(self) -> nn.Module:
        """The original model."""
        return self._original

    def export_model(
        self,
        model_path: str | PathLike[str],
        calibration_path: str | PathLike[str] | None = None,
        onnx_path: str | PathLike[str] | None = None,
        input_shape: tuple[int, ...] | None = None,
        device: Any = None,  # noqa: ARG002 - NNI's signature
    ) -> CalibrationConfig:
        """Write the state_dict, the calibration config, and an ONNX file with the integers; returns the config.

        Args:
            input_shape: of random inputs for the ONNX file; without one the evaluator's are taken.
            device: has no effect.

        Raises:
            InputError: before `compress`.
            FileError: a file cannot be written.
        """
        return export_files(self._ready(), model_path, calibration_path, onnx_path, input_shape)

    def _calibrated(self) -> Quantized:
        example = example_of(self._original, self.evaluator)
        batches = batches_of(self._original, self.evaluator)
        quantized = Quantized(self._original, example, self._rules)
        quantized.calibrate(batches, self._observer)
        self._batches = batches
        self._quantized = quantized
        self.bound_model = quantized.simulation
        return quantized

    def _ready(self) -> Quantized:
        if self._quantized is None:
            raise InputError("there are no ranges yet; call compress() first")
        return self._quantized


class QATQuantizer(Quantizer):
    """Quantization-aware training: straight-through gradients, ranges of activations as moving averages."""


class DoReFaQuantizer(Quantizer):
    """DoReFa-Net: weights through tanh to [-1, 1], activations clipped to [0, 1]; gradients stay in floating point."""

    _method = "dorefa"

    def __init__(self, model: nn.Module, config_list: list[dict[str, Any]], evaluator: Evaluator) -> None:
        super().__init__(model, config_list, evaluator)


class BNNQuantizer(Quantizer):
    """Binary weights and activations, -1 and 1; weights stay within [-1, 1] in training."""

    _method = "bnn"

    def __init__(self, model: nn.Module, config_list: list[dict[str, Any]], evaluator: Evaluator) -> None:
        super().__init__(model, config_list, evaluator)


class LsqQuantizer(Quantizer):
    """LSQ: the scales are learned, from the paper's start 2 mean |w| / sqrt(qmax)."""

    _method = "lsq"

    def __init__(self, model: nn.Module, config_list: list[dict[str, Any]], evaluator: Evaluator) -> None:
        super().__init__(model, config_list, evaluator)


class LsqPlusQuantizer(Quantizer):
    """LSQ+: scales and offsets are learned."""

    _method = "lsq+"

    def __init__(self, model: nn.Module, config_list: list[dict[str, Any]], evaluator: Evaluator) -> None:
        super().__init__(model, config_list, evaluator)


class PtqQuantizer(Quantizer):
    """Quantization without training: ranges from what the evaluation reads.

    NNI trains in `compress` first; here ``max_steps`` and ``max_epochs`` have no effect.

    Args:
        existed_wrappers: has no effect; quantizers are not stacked.
        is_bias_correction: take the mean error of each layer off its bias.
    """

    def __init__(
        self,
        model: nn.Module,
        config_list: list[dict[str, Any]],
        evaluator: Evaluator,
        existed_wrappers: Any = None,  # noqa: ARG002 - NNI's signature
        is_bias_correction: bool = False,
    ) -> None:
        super().__init__(model, config_list, evaluator)
        self._corrects = is_bias_correction

    def compress(
        self,
        max_steps: int | None = None,  # noqa: ARG002 - NNI's signature
        max_epochs: int | None = None,  # noqa: ARG002
    ) -> tuple[nn.Module, CalibrationConfig]:
        """Calibrate.

        Returns:
            The simulation, and what `get_calibration_config` gives.
        """
        quantized = self._calibrated()
        if self._corrects:
            correct_bias(quantized.simulation, self._batches, quantized.example)
        return quantized.simulation, quantized.config()
