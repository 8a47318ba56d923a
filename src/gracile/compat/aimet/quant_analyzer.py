"""What ``aimet_torch.quant_analyzer`` holds: where quantization costs accuracy."""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from glob import escape
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from gracile.compat.aimet import analysis_pages as pages
from gracile.compat.aimet.common.quantization import CallbackFunc, QuantScheme
from gracile.compat.aimet.module_names import ModuleNames
from gracile.compat.aimet.quantsim_model import QuantizationSimModel
from gracile.compat.aimet.samples import require_count, require_loader
from gracile.errors import InputError, MissingExtraError
from gracile.export.files import write_bytes
from gracile.html import Document, page, write
from gracile.inputs import ExampleInputs, Inputs, path_of
from gracile.pipeline.quantized_evidence import quantizers_of
from gracile.quant.analysis import Analysis, analyze, layer_errors
from gracile.simulation import Simulation

__all__ = ["CallbackFunc", "QuantAnalyzer"]

# Histograms look much the same from more.
_EXAMPLES = 256

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

        Files in ``results_dir``, as AIMET names them: ``per_layer_quant_enabled``, ``per_layer_quant_disabled``,
        ``min_max_ranges/weights``, ``min_max_ranges/activations`` and, where enabled, ``per_layer_mse_loss``, each as
        ``.json`` and, where plotly is installed, as a page, ``.html``; and the pages ``weights_pdf.html`` and
        ``activations_pdf.html``, the histograms of what the callback ran, at most 256 examples.

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
        with _recorded(sim.model) as batches:
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
        quantizers = quantizers_of(simulation, batches, sim.example)
        drawn = {
            "per_layer_quant_enabled.html": pages.scores(found, "enabled"),
            "per_layer_quant_disabled.html": pages.scores(found, "disabled"),
            "min_max_ranges/weights.html": pages.ranges(quantizers, "weight"),
            "min_max_ranges/activations.html": pages.ranges(quantizers, "activation"),
            "weights_pdf.html": pages.densities(quantizers, "weight"),
            "activations_pdf.html": pages.densities(quantizers, "activation"),
        }
        if self._batches:
            errors = layer_errors(simulation, self._batches, sim.example)
            files["per_layer_mse_loss.json"] = dict(errors.squared)
            drawn["per_layer_mse_loss.html"] = pages.errors(errors.squared)
        folder = path_of("results_dir", results_dir)
        _write(folder, files)
        _draw(folder, drawn)
        return found


@contextmanager
def _recorded(model: nn.Module) -> Iterator[list[Inputs]]:
    """What the model is called with meanwhile, the first `_EXAMPLES` examples of it."""
    batches: list[Inputs] = []

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if sum(batch.batch_size or 1 for batch in batches) < _EXAMPLES:
            batches.append(Inputs(args, kwargs))

    handle = model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield batches
    finally:
        handle.remove()


def _ranges(simulation: Simulation, role: str) -> dict[str, Any]:
    """Quantizer -> the smallest and largest real of each of its scales."""
    found = {}
    for name, item in simulation.named_quantizers(role).items():
        low, high = (end.flatten().tolist() for end in item.range)
        found[" ".join(simulation.sites[name])] = {"min": low, "max": high}
    return found


def _draw(folder: Path, documents: Mapping[str, Document]) -> None:
    try:
        for name, document in documents.items():
            write(folder / name, page(document))
    except MissingExtraError as error:
        log.warning("no pages are drawn in %s, as they have charts: %s", folder, error)


def _write(folder: Path, files: Mapping[str, Any]) -> None:
    for name, content in files.items():
        write_bytes(folder / name, json.dumps(content, indent=1).encode())
