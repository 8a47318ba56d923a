"""What ``aimet_torch.quant_analyzer`` holds: where quantization costs accuracy."""

import json
import logging
from collections.abc import Iterable, Mapping
from glob import escape
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from gracile.compat.aimet.common.quantization import CallbackFunc, QuantScheme
from gracile.compat.aimet.module_names import ModuleNames
from gracile.compat.aimet.quantsim_model import QuantizationSimModel
from gracile.compat.aimet.samples import require_count, require_loader
from gracile.errors import FileError, InputError
from gracile.inputs import ExampleInputs
from gracile.quant.analysis import Analysis, analyze, layer_errors
from gracile.simulation import Simulation

__all__ = ["CallbackFunc", "QuantAnalyzer"]

log = logging.getLogger(__name__)


class QuantAnalyzer:
    """The guidebook's analysis: weights against activations, layer by layer.

    Args:
        model: stays as it is.
        dummy_input: a tensor, a tuple of positional arguments or a dictionary of keywords.
        forward_pass_callback: passes unlabelled examples through the model, for ranges.
        eval_callback: scores the model, larger is better; called four times, and twice for each layer.
        modules_to_ignore: modules that stay in floating point.

    Raises:
        InputError: an argument is wrong.
    """

    def __init__(
        self,
        model: nn.Module,
        dummy_input: ExampleInputs,
        forward_pass_callback: CallbackFunc,
        eval_callback: CallbackFunc,
        modules_to_ignore: Iterable[nn.Module] | None = None,
    ) -> None:
        for name, given in (("forward_pass_callback", forward_pass_callback), ("eval_callback", eval_callback)):
            if not isinstance(given, CallbackFunc):
                raise InputError(f"{name} is a {type(given).__name__}; give CallbackFunc(function, arguments)")
        names = ModuleNames(model)
        self._ignored = list(modules_to_ignore or ())
        for module in self._ignored:
            escape(names.name(module, "modules_to_ignore"))
        self._model, self._dummy = model, dummy_input
        self._forward, self._eval = forward_pass_callback, eval_callback
        self._batches: list[Any] = []

    def enable_per_layer_mse_loss(self, unlabeled_dataset_iterable: Iterable[Any], num_batches: int) -> None:
        """Measure each layer's output error, too, on so many batches.

        Raises:
            InputError: there is no batch.
        """
        require_loader(unlabeled_dataset_iterable)
        require_count("num_batches", num_batches)
        self._batches = list(islice(unlabeled_dataset_iterable, num_batches))
        if not self._batches:
            raise InputError("unlabeled_dataset_iterable yields no batch")

    def analyze(
        self,
        quant_scheme: QuantScheme | str = QuantScheme.post_training_tf_enhanced,
        default_param_bw: int = 8,
        default_output_bw: int = 8,
        config_file: str | PathLike[str] | None = None,
        results_dir: str | PathLike[str] = "./tmp/",
    ) -> Analysis:
        """Score the model with some of its quantizers, and write what was found.

        Files in ``results_dir``, as AIMET names them: ``per_layer_quant_enabled.json``,
        ``per_layer_quant_disabled.json``, ``min_max_ranges/weights.json``, ``min_max_ranges/activations.json`` and,
        where enabled, ``per_layer_mse_loss.json``.  Pages with plots are not drawn; `gracile.quant.distributions` has
        the histograms.

        Returns:
            The scores, which print as tables; AIMET returns nothing.

        Raises:
            InputError, CaptureError, EvaluationError: the model cannot be simulated, or the callbacks fail.
            FileError: the folder cannot be written.
        """
        sim = QuantizationSimModel(
            self._model, self._dummy, quant_scheme, None, default_output_bw, default_param_bw, config_file=config_file
        )
        if self._ignored:
            sim.exclude_layers_from_quantization(self._ignored)
        sim.compute_encodings(self._forward.func, self._forward.func_callback_args)
        simulation = sim.plain_model()
        found = analyze(simulation, self._eval)
        log.info("%s", found)
        files: dict[str, Any] = {
            "per_layer_quant_enabled.json": dict(found.alone_on),
            "per_layer_quant_disabled.json": dict(found.alone_off),
            "min_max_ranges/weights.json": _ranges(simulation, "weight"),
            "min_max_ranges/activations.json": _ranges(simulation, "activation"),
        }
        if self._batches:
            errors = layer_errors(simulation, self._batches, sim.example)
            files["per_layer_mse_loss.json"] = dict(errors.squared)
        _write(Path(results_dir), files)
        return found


def _ranges(simulation: Simulation, role: str) -> dict[str, Any]:
    """Quantizer -> the smallest and largest real of each of its scales."""
    found = {}
    for name, item in simulation.named_quantizers(role).items():
        low, high = (end.flatten().tolist() for end in item.range)
        found[" ".join(simulation.sites[name])] = {"min": low, "max": high}
    return found


def _write(folder: Path, files: Mapping[str, Any]) -> None:
    try:
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    except OSError as error:
        raise FileError(f"{folder} cannot be written: {error}") from error
