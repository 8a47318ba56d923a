"""What ``aimet_torch.bias_correction`` holds: mean errors of rounding taken off biases."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gracile.compat.aimet.dummy_inputs import example_of
from gracile.compat.aimet.module_names import ModuleNames
from gracile.compat.aimet.quantsim_model import QuantizationSimModel, QuantParams
from gracile.compat.aimet.samples import Images
from gracile.compat.aimet.settled import make_plain
from gracile.errors import InputError
from gracile.graph import capture, tensors_of
from gracile.inputs import Calibration, Inputs
from gracile.plan import AddBias, Plan, child
from gracile.quant.bias_correction import correct_bias as corrected
from gracile.quant.bias_correction import correct_bias_analytically
from gracile.quant.equalization import input_means
from gracile.quant.folding import fold_plan
from gracile.quant.weighted import weighted_layers
from gracile.simulation import Simulation
from gracile.surgery import apply

__all__ = ["QuantParams", "correct_bias", "find_all_conv_bn_with_activation"]

log = logging.getLogger(__name__)

_BIASED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def find_all_conv_bn_with_activation(model: nn.Module, input_shape: Any) -> dict[nn.Module, Tensor]:
    """The layers behind a batch-norm, with at most a ReLU or ReLU6 between; call it before batch-norms are folded.

    Returns:
        Layer -> E[x] of its inputs, [inputs]: what `correct_bias` takes as ``conv_bn_dict``.

    Raises:
        InputError, CaptureError: the inputs are unfit, or the model cannot be captured.
    """
    return {
        model.get_submodule(name): mean for name, mean in input_means(model, example_of(model, input_shape)).items()
    }


def correct_bias(
    model: nn.Module,
    quant_params: QuantParams,
    num_quant_samples: int,
    data_loader: Iterable[Any],
    num_bias_correct_samples: int,
    conv_bn_dict: Mapping[nn.Module, Tensor] | None = None,
    perform_only_empirical_bias_corr: bool = True,
    layers_to_ignore: Iterable[nn.Module] | None = None,
) -> None:
    """Take the mean error of quantization off the bias of each convolution and linear layer; in place.

    Layers without a bias get one.  Where a batch-norm is not folded yet, its bias is corrected.

    Args:
        quant_params: how the layers will be quantized.
        num_quant_samples: images for the ranges of activations.
        data_loader: yields images, or (images, labels).
        num_bias_correct_samples: images for the mean errors.
        conv_bn_dict: what `find_all_conv_bn_with_activation` returned.
        perform_only_empirical_bias_corr: False corrects the layers of ``conv_bn_dict`` by what batch-norms say of
            their inputs, without data, before the others.
        layers_to_ignore: layers whose bias stays.

    Raises:
        InputError: an argument is wrong, or a batch-norm without bias stands behind a layer.
        CaptureError: the model cannot be captured.
    """
    if not isinstance(quant_params, QuantParams):
        raise InputError(f"quant_params is a {type(quant_params).__name__}; give QuantParams(weight_bw=8, act_bw=8)")
    names = ModuleNames(model)
    ignored = {names.name(module, "layers_to_ignore") for module in layers_to_ignore or ()}
    known = {} if perform_only_empirical_bias_corr else {
        names.name(module, "conv_bn_dict"): mean for module, mean in (conv_bn_dict or {}).items()
    }  # fmt: skip
    ranging = Images(data_loader, num_quant_samples, "num_quant_samples")
    correcting = Images(data_loader, num_bias_correct_samples, "num_bias_correct_samples")
    example = _example(ranging)
    norms = _norms(model, example)
    simulation = _simulated(model, example, quant_params, ranging, norms)
    before = _biases(simulation)
    analytic = {name: mean for name, mean in known.items() if name in before and name not in ignored}
    if analytic:
        correct_bias_analytically(simulation, analytic)
    if before.keys() - ignored - analytic.keys():
        corrected(simulation, correcting, example, exclude=ignored | analytic.keys())
    tensors = tensors_of(model)
    with torch.no_grad():
        for name, after in _biases(simulation).items():
            tensors[child(norms.get(name, name), "bias")].add_(after - before[name])


def _example(images: Images) -> Inputs:
    batch = next(iter(images))
    return Inputs.of(batch[0] if isinstance(batch, tuple | list) else batch)


def _norms(model: nn.Module, example: Inputs) -> dict[str, str]:
    """Layer -> the batch-norm behind it, where it is not folded yet."""
    folds, _ = fold_plan(model, capture(model, example, training=False))
    found = {edit.into: edit.module for edit in folds.edits if edit.edit == "fold_batch_norm" and edit.place == "after"}
    for layer, norm in found.items():
        if model.get_submodule(norm).bias is None:
            raise InputError(f"the batch-norm {norm} behind {layer} has no bias; call fold_all_batch_norms before")
    return found


def _simulated(
    model: nn.Module, example: Inputs, params: QuantParams, images: Images, norms: Mapping[str, str]
) -> Simulation:
    """The simulation with its ranges, biases added to ``model`` where there were none."""

    def made() -> QuantizationSimModel:
        return QuantizationSimModel(
            model, example, params.quant_scheme, params.round_mode, params.act_bw, params.weight_bw,
            config_file=params.config_file,
        )  # fmt: skip

    sim = made()
    bare = [layer.name for layer in weighted_layers(sim.model)[0] if layer.bias is None and layer.name not in norms]
    edits = tuple(AddBias(module=name) for name in bare if isinstance(model.get_submodule(name), _BIASED))
    if edits:
        apply(model, Plan(edits=edits), inplace=True)
        sim = made()

    def run(simulated: nn.Module) -> None:
        for batch in Calibration(images, example):
            batch.call(simulated)

    sim.compute_encodings(run)
    make_plain(sim.model)
    return sim.model


def _biases(simulation: Simulation) -> dict[str, Tensor]:
    """Layer -> its bias, of the quantized layers that have one."""
    tensors = tensors_of(simulation)
    layers = weighted_layers(simulation)[0]
    return {layer.name: tensors[layer.bias].detach().clone() for layer in layers if layer.bias is not None}
