"""NNI 2's quantizers, for the user's own loop, over simulations of gracile."""

from collections.abc import Mapping
from os import PathLike
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim import Optimizer

from gracile.compat.nni.common.quant_formats import fitted, naive
from gracile.compat.nni.common.quant_rules import QuantRules, quant_rules
from gracile.compat.nni.common.quant_sites import CalibrationConfig
from gracile.compat.nni.common.quantizing import Quantized, export_files
from gracile.errors import InputError
from gracile.inputs import ExampleInputs, Inputs
from gracile.quant.training import QuantizedTraining, QuantizedTrainingPart, Training

__all__ = [
    "BNNQuantizer",
    "DoReFaQuantizer",
    "LsqQuantizer",
    "NaiveQuantizer",
    "ObserverQuantizer",
    "QAT_Quantizer",
    "Quantizer",
]


class Quantizer:
    """What NNI 2's quantizers share.

    `compress` returns a `gracile.simulation.Simulation` of the model.  Train *that*: ``model = quantizer.compress()``.
    The model given stays as it is, where NNI wraps its modules, and the optimizer trains the simulation's parameters
    from then on.

    Args:
        model: the floating-point model.
        config_list: NNI 2's entries (``quant_types``, ``quant_bits``, ...), or later ones.
        optimizer: of the model's parameters.
        dummy_input: a real batch, on which the model is captured and from which ranges start.  NNI asks for it only
            with some of its quantizers; here all need it.

    Raises:
        InputError: an argument is wrong, or ``dummy_input`` is missing.
    """

    _method: ClassVar[Training] = "qat"

    def __init__(
        self,
        model: nn.Module,
        config_list: list[dict[str, Any]],
        optimizer: Optimizer | None = None,
        dummy_input: ExampleInputs | None = None,
    ) -> None:
        self.bound_model: nn.Module = model
        self.config_list = config_list
        self._original = model
        self._rules = self._fitted(quant_rules(model, config_list))
        if optimizer is not None and not isinstance(optimizer, Optimizer):
            raise InputError(f"optimizer is a {type(optimizer).__name__}; give an optimizer of torch.optim")
        self._optimizer = optimizer
        self._example = None if dummy_input is None else Inputs.of(dummy_input)
        self._quantized: Quantized | None = None
        self._run: QuantizedTrainingPart | None = None

    def _fitted(self, rules: QuantRules) -> QuantRules:
        return fitted(rules, self._method)

    def compress(self) -> nn.Module:
        """The simulation, with quantizers for training.

        Raises:
            InputError: ``dummy_input`` or the optimizer is missing, or a format does not fit.
            CaptureError: the model cannot be captured.
        """
        if self._optimizer is None:
            raise InputError(f"{type(self).__name__} is for training: give the optimizer")
        example = self._required_example()
        quantized = self._made(example, [example], "minmax")
        self._run = run = QuantizedTraining(self._method, start=self._rules.start).prepare(quantized.simulation)
        _retarget(self._optimizer, self._original, quantized)

        def after(*_arguments: Any) -> None:
            if all(parameter.grad is None for parameter in quantized.simulation.parameters()):
                raise InputError("the quantized model gets no gradients: train what compress() returned")
            run.step()

        self._hook = self._optimizer.register_step_post_hook(after)
        return quantized.simulation

    def get_calibration_config(self) -> CalibrationConfig:
        """Module -> target -> scale, zero_point, quant_dtype, quant_scheme, quant_bits, tracked_min, tracked_max.

        The training ends with it.

        Raises:
            InputError: before `compress`.
        """
        self._finish()
        return self._ready().config()

    def update_calibration_config(self, calibration_config: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        """Take over scales and zero points that `get_calibration_config` gave.

        Raises:
            InputError: before `compress`, or they do not fit.
        """
        self._finish()
        self._ready().update(calibration_config)

    def load_calibration_config(self, calibration_config: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        """The same as `update_calibration_config`, as NNI 2 calls it."""
        self.update_calibration_config(calibration_config)

    def export_model(
        self,
        model_path: str | PathLike[str],
        calibration_path: str | PathLike[str] | None = None,
        onnx_path: str | PathLike[str] | None = None,
        input_shape: tuple[int, ...] | None = None,
        device: Any = None,  # noqa: ARG002 - NNI's signature
    ) -> CalibrationConfig:
        """End the training; write the state_dict, the calibration config, and an ONNX file with the integers.

        Args:
            input_shape: of random inputs for the ONNX file; without one ``dummy_input`` is taken.
            device: has no effect.

        Raises:
            InputError: before `compress`.
            FileError: a file cannot be written.
        """
        self._finish()
        return export_files(self._ready(), model_path, calibration_path, onnx_path, input_shape)

    def _required_example(self) -> Inputs:
        if self._example is None:
            raise InputError(
                f"{type(self).__name__} captures the model: give a real batch, as {type(self).__name__}(model, "
                "config_list, optimizer, dummy_input=images)"
            )
        return self._example

    def _made(self, example: Inputs, batches: list[Inputs], observer: str) -> Quantized:
        quantized = Quantized(self._original, example, self._rules)
        quantized.calibrate(batches, observer)
        self._quantized = quantized
        self.bound_model = quantized.simulation
        return quantized

    def _finish(self) -> None:
        if self._run is not None:
            self._hook.remove()
            self._run.finish()
            self._run = None

    def _ready(self) -> Quantized:
        if self._quantized is None:
            raise InputError("there are no ranges yet; call compress() first")
        return self._quantized


class QAT_Quantizer(Quantizer):  # noqa: N801 - NNI's name
    """Quantization-aware training: straight-through gradients, ranges of activations as moving averages."""


class DoReFaQuantizer(Quantizer):
    """DoReFa-Net: weights through tanh to [-1, 1], activations clipped to [0, 1]."""

    _method = "dorefa"


class BNNQuantizer(Quantizer):
    """Binary weights and activations, -1 and 1; weights stay within [-1, 1] in training."""

    _method = "bnn"


class LsqQuantizer(Quantizer):
    """LSQ: the scales are learned, from the paper's start 2 mean |w| / sqrt(qmax)."""

    _method = "lsq"


class NaiveQuantizer(Quantizer):
    """The weights in eight bits, with the scale max |w| / 127 for each tensor; nothing is trained.

    NNI rounds towards zero; here values are rounded to the nearest, as integer runtimes do.
    """

    def _fitted(self, rules: QuantRules) -> QuantRules:
        return naive(rules)

    def compress(self) -> nn.Module:
        """The simulation.

        Raises:
            InputError: ``dummy_input`` is missing.
            CaptureError: the model cannot be captured.
        """
        example = self._required_example()
        return self._made(example, [example], "minmax").simulation


class ObserverQuantizer(Quantizer):
    """Quantization without training: run batches through the model, then call `compress`.

    Until then all inputs that the model is called with are kept.  Ranges are chosen by least squared error on
    histograms; formats are those of config_list.
    """

    def __init__(
        self,
        model: nn.Module,
        config_list: list[dict[str, Any]],
        optimizer: Optimizer | None = None,
        dummy_input: ExampleInputs | None = None,
    ) -> None:
        super().__init__(model, config_list, optimizer, dummy_input)
        if model.training:
            raise InputError("ObserverQuantizer watches the model in evaluation mode: call model.eval() before")
        self._seen: list[Inputs] = []
        self._watch = model.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._seen.append(Inputs(args, kwargs))

    def compress(self) -> nn.Module:
        """The simulation, calibrated with what the model has read.

        Raises:
            InputError: it has read nothing.
            CaptureError: the model cannot be captured.
        """
        self._watch.remove()
        if not self._seen:
            raise InputError("the model has read nothing: run some hundred examples through it before compress()")
        simulation = self._made(self._example or self._seen[0], self._seen, "mse").simulation
        self._seen = []
        return simulation


@torch.no_grad()
def _retarget(optimizer: Optimizer, model: nn.Module, quantized: Quantized) -> None:
    """Let the optimizer train the simulation's parameters in place of the model's, and those that are new."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    own = dict(quantized.simulation.named_parameters())
    if not any(id(held) in names for group in optimizer.param_groups for held in group["params"]):
        raise InputError(
            "the optimizer holds no parameter of this model; make it from the very model that is quantized"
        )
    for group in optimizer.param_groups:
        # Those of folded batch-norms are gone.
        held = [own.get(names.get(id(item), "")) for item in group["params"]]
        group["params"] = [item for item in held if item is not None]
    optimizer.param_groups[0]["params"].extend(quantized.added_parameters(set(names.values())))
    optimizer.state.clear()
