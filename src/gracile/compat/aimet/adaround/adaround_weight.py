"""What ``aimet_torch.adaround.adaround_weight`` holds: weights rounded so that layers' outputs change least."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from glob import escape
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gracile.compat.aimet.common import quantsim as versions
from gracile.compat.aimet.common.quantization import QuantScheme
from gracile.compat.aimet.module_names import ModuleNames
from gracile.compat.aimet.quant_config import bit_width, quant_config
from gracile.compat.aimet.recorded import ForwardFn, first_batches
from gracile.compat.aimet.samples import require_count, require_loader
from gracile.errors import InputError
from gracile.export.encodings import to_encodings
from gracile.graph import capture, tensors_of
from gracile.inputs import ExampleInputs, Inputs
from gracile.maths.adaround import Rounding
from gracile.quant.calibration import fit_weights
from gracile.quant.folding import fold_plan
from gracile.quant.formats import Formats
from gracile.quant.method import simulate
from gracile.quant.rounding import adaround
from gracile.surgery import apply

__all__ = ["Adaround", "AdaroundParameters"]


@dataclass
class AdaroundParameters:
    """How AdaRound optimises.

    Raises:
        InputError: a number is out of range, or the loader cannot be iterated.
    """

    # Yields inputs, or (inputs, labels); so many batches of it are used.
    data_loader: Iterable[Any]
    num_batches: int
    # Steps for each layer; None: gracile's number, 1,000 at a learning rate of 0.01, where AIMET takes 10,000 or 15,000
    # at 0.001.
    default_num_iterations: int | None = None
    # The weight of the regulariser, the first and last value of its exponent, the share of steps without it.
    default_reg_param: float = 0.01
    default_beta_range: tuple[float, float] = (20, 2)
    default_warm_start: float = 0.2
    # forward_fn(model, batch), where the model is not simply called with the batch.
    forward_fn: ForwardFn | None = None

    def __post_init__(self) -> None:
        require_loader(self.data_loader)
        require_count("num_batches", self.num_batches)
        self.settings  # noqa: B018 - checks the numbers

    @property
    def settings(self) -> Rounding:
        """The same for gracile."""
        first, last = self.default_beta_range
        usual = Rounding().iterations
        return Rounding(
            iterations=usual if self.default_num_iterations is None else self.default_num_iterations,
            penalty=self.default_reg_param,
            beta=(float(first), float(last)),
            warm_start=self.default_warm_start,
        )


class Adaround:
    """AdaRound as AIMET calls it."""

    @staticmethod
    def apply_adaround(
        model: nn.Module,
        dummy_input: ExampleInputs,
        params: AdaroundParameters,
        path: str | PathLike[str],
        filename_prefix: str,
        default_param_bw: int = 4,
        param_bw_override_list: Sequence[tuple[nn.Module, int]] | None = None,
        ignore_quant_ops_list: Iterable[nn.Module] | None = None,
        default_quant_scheme: QuantScheme | str = QuantScheme.post_training_tf_enhanced,
        default_config_file: str | PathLike[str] | None = None,
    ) -> nn.Module:
        """A copy of ``model``, batch-norms folded, with weights on their levels, and ``path/prefix.encodings``.

        Give that file to `QuantizationSimModel.set_and_freeze_param_encodings`, so that the levels stay.

        Args:
            model: stays as it is.
            dummy_input: a tensor, a tuple of positional arguments or a dictionary of keywords.
            default_param_bw: bits of the weights.
            param_bw_override_list: (module, bits) where they differ.
            ignore_quant_ops_list: modules that stay in floating point.
            default_quant_scheme: how the weights' ranges are chosen.
            default_config_file: see `gracile.compat.aimet.quant_config.quant_config`.

        Raises:
            InputError: an argument is wrong, or no layer can be rounded.
            CaptureError: the model cannot be captured.
            FileError: the file cannot be written.
        """
        if not isinstance(params, AdaroundParameters):
            raise InputError(f"params is a {type(params).__name__}; give AdaroundParameters(data_loader, num_batches)")
        scheme, names = QuantScheme.of(default_quant_scheme), ModuleNames(model)
        config = quant_config(8, default_param_bw, default_config_file)
        overrides: dict[str, Any] = {escape(name): given for name, given in config.overrides(model).items()}
        for module, bits in param_bw_override_list or ():
            name = escape(names.name(module, "param_bw_override_list"))
            spec = config.weights.model_copy(update={"bits": bit_width("param_bw_override_list", bits)})
            overrides[name] = {**overrides.get(name, {}), "weights": spec}
        ignored = [escape(names.name(module, "ignore_quant_ops_list")) for module in ignore_quant_ops_list or ()]
        excluded = [pattern for name in ignored for pattern in (name, f"{name}.*")]
        example = Inputs.of(dummy_input)
        batches = first_batches(model, params.data_loader, params.num_batches, params.forward_fn)
        rounded = apply(model, fold_plan(model, capture(model, example, training=False))[0])
        formats = Formats(config.weights, None, overrides=overrides, exclude=excluded)
        simulation, placement = simulate(rounded, example, formats)
        if not placement.edits:
            raise InputError("no weight is left to round; look at ignore_quant_ops_list and default_config_file")
        fit_weights(simulation, observer=scheme.observer)
        adaround(simulation, batches, example, settings=params.settings)
        found, tensors = tensors_of(simulation), tensors_of(rounded)
        with torch.no_grad():
            for name in simulation.named_quantizers("weight"):
                (site,) = simulation.sites[name]
                tensors[site].copy_(found[site])
        to_encodings(simulation, Path(path) / f"{filename_prefix}.encodings", version=versions.encoding_version)
        return rounded
