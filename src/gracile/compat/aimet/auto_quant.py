"""What ``aimet_torch.auto_quant`` holds: the guidebook's path until the accuracy suffices."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from gracile.compat.aimet.adaround.adaround_weight import AdaroundParameters
from gracile.compat.aimet.common import quantsim as versions
from gracile.compat.aimet.common.quantization import QuantScheme
from gracile.compat.aimet.quant_config import quant_config
from gracile.compat.aimet.quantsim_model import QuantizationSimModel
from gracile.compat.aimet.samples import require_loader
from gracile.errors import InputError
from gracile.export.encodings import to_encodings
from gracile.inputs import Calibration, ExampleInputs, Inputs
from gracile.maths.quant_spec import QuantSpec
from gracile.quant.guided import Guided, quantize_within
from gracile.quant.method import quantize
from gracile.quant.observers import ObserverMaker, Percentile, observer_maker
from gracile.scoring import score_of
from gracile.simulation import Simulation

__all__ = ["AutoQuant", "QuantSchemePair"]


class QuantSchemePair(NamedTuple):
    """How ranges of weights and of activations are chosen; shares of percentile schemes in percent."""

    param_quant_scheme: QuantScheme | str
    output_quant_scheme: QuantScheme | str
    param_percentile: float | None = None
    output_percentile: float | None = None

    @property
    def observers(self) -> dict[str, str | ObserverMaker]:
        """The observers of gracile that choose such ranges."""
        return {
            "weights": _observer_of(self.param_quant_scheme, self.param_percentile),
            "activations": _observer_of(self.output_quant_scheme, self.output_percentile),
        }


def _observer_of(scheme: QuantScheme | str, percent: float | None) -> str | ObserverMaker:
    found = QuantScheme.of(scheme)
    if found is QuantScheme.post_training_percentile and percent is not None:
        return partial(Percentile, percent)
    return found.observer


def _pair(given: Any) -> QuantSchemePair:
    try:
        pair = QuantSchemePair(*given)
        for scheme in pair[:2]:
            QuantScheme.of(scheme)
    except TypeError as error:
        raise InputError(f"candidates holds {given!r}; give QuantSchemePair(weights, activations)") from error
    for observer in pair.observers.values():
        observer_maker(observer)
    return pair


class AutoQuant:
    """Quantization without training, until the accuracy suffices.

    Args:
        model: stays as it is.
        dummy_input: a tensor, a tuple of positional arguments or a dictionary of keywords.
        data_loader: yields inputs, or (inputs, labels); labels are not used.
        eval_callback: (model, number of samples) -> score, larger is better; called with None for all samples.
        param_bw, output_bw: bits of weights and activations.
        quant_scheme: how `run_inference` chooses ranges; `optimize` tries several.
        rounding_mode: "nearest".
        config_file: see `gracile.compat.aimet.quant_config.quant_config`; what it says of types of modules counts in
            `run_inference` alone.
        results_dir: where `optimize` writes encodings.
        cache_id, strict_validation, model_prepare_required: have no effect.

    Raises:
        InputError: an argument is wrong.
    """

    def __init__(
        self,
        model: nn.Module,
        dummy_input: ExampleInputs,
        data_loader: Iterable[Any],
        eval_callback: Callable[[Any, int | None], float],
        param_bw: int = 8,
        output_bw: int = 8,
        quant_scheme: QuantScheme | str = QuantScheme.post_training_tf_enhanced,
        rounding_mode: str = "nearest",
        config_file: str | PathLike[str] | None = None,
        results_dir: str | PathLike[str] = "/tmp",
        cache_id: str | None = None,  # noqa: ARG002 - AIMET's signature
        strict_validation: bool = True,  # noqa: ARG002
        model_prepare_required: bool = True,  # noqa: ARG002
    ) -> None:
        require_loader(data_loader)
        if not callable(eval_callback):
            raise InputError(
                f"eval_callback is a {type(eval_callback).__name__}; give a function of (model, number of samples)"
            )
        self._model, self._dummy = model, dummy_input
        self._data = Calibration(data_loader, Inputs.of(dummy_input))
        self._eval = eval_callback
        self._widths = (output_bw, param_bw)
        self._scheme = QuantScheme.of(quant_scheme)
        if rounding_mode not in (None, "nearest"):
            raise InputError(f"rounding_mode is {rounding_mode!r}; integers are rounded to the 'nearest'")
        self._rounding_mode, self._config_file = rounding_mode, config_file
        self._config = quant_config(output_bw, param_bw, config_file)
        self._folder = Path(results_dir)
        self._adaround: AdaroundParameters | None = None
        self._schemes: tuple[QuantSchemePair, ...] = ()
        self.result: Guided | None = None

    def run_inference(self) -> tuple[QuantizationSimModel, float]:
        """The model quantized as it is, and its score."""
        output_bw, param_bw = self._widths
        sim = QuantizationSimModel(
            self._model, self._dummy, self._scheme, self._rounding_mode, output_bw, param_bw,
            config_file=self._config_file,
        )  # fmt: skip

        def run(simulated: nn.Module) -> None:
            for batch in self._data:
                batch.call(simulated)

        sim.compute_encodings(run)
        return sim, score_of(self._score, sim.model, "the simulation")

    def set_adaround_params(self, adaround_params: AdaroundParameters) -> None:
        """How AdaRound optimises; its data are ``data_loader``'s."""
        self._adaround = adaround_params

    def set_quant_scheme_candidates(self, candidates: Sequence["QuantSchemePair | tuple[Any, ...]"]) -> None:
        """The pairs of schemes, of weights and of activations, of which `optimize` starts with the best.

        Raises:
            InputError: there is none, or one is no pair of schemes.
        """
        if not isinstance(candidates, Sequence) or isinstance(candidates, str) or not candidates:
            raise InputError(f"candidates is {candidates!r}; give a list of QuantSchemePair(weights, activations)")
        self._schemes = tuple(_pair(item) for item in candidates)

    def get_quant_scheme_candidates(self) -> tuple["QuantSchemePair", ...]:
        """What `set_quant_scheme_candidates` was given; () where `optimize` chooses itself."""
        return self._schemes

    def set_export_params(self, onnx_export_args: Any = -1, propagate_encodings: bool | None = None) -> None:
        """Has no effect: `optimize` writes encodings alone; `gracile.export.to_onnx` writes its simulation."""

    def set_model_preparer_params(self, modules_to_exclude: Any = None, concrete_args: Any = None) -> None:
        """Has no effect: models need no preparation here, see `gracile.compat.aimet.model_preparer`."""

    def optimize(self, allowed_accuracy_drop: float = 0.0) -> tuple[Simulation, float, str]:
        """Fold, choose ranges, equalize, correct biases, round, until the score is at most so far below the model's.

        See `gracile.quant.quantize_within`; what it tried, and why it stopped, stands in ``result`` afterwards.

        Returns:
            The best simulation, its score, and the path of its encodings.

        Raises:
            InputError: the drop is no number of at least 0.
            EvaluationError: the callback failed.
            FileError: the encodings cannot be written.
        """
        activations = self._config.activations
        if activations is None:
            raise InputError("config_file leaves activations in floating point, which AutoQuant does not know")
        found = quantize_within(
            self._model, self._dummy, evaluate=self._score, calibration=self._data, tolerance=allowed_accuracy_drop,
            weights=self._config.weights, activations=activations, observer=self._observer(activations),
            rounding=None if self._adaround is None else self._adaround.settings,
        )  # fmt: skip
        self.result = found
        path = to_encodings(found.simulation, self._folder / "auto_quant.encodings", version=versions.encoding_version)
        return found.simulation, found.score, str(path)

    def _observer(self, activations: QuantSpec) -> Mapping[str, str | ObserverMaker]:
        """What chooses the ranges to start with: of several candidates those with the best score."""
        usual: dict[str, str | ObserverMaker] = {"weights": "minmax", "activations": "mse"}
        best: tuple[float, Mapping[str, str | ObserverMaker]] | None = None
        for pair in self._schemes:
            tried = pair.observers
            if len(self._schemes) == 1:
                return tried
            simulation = quantize(
                self._model, self._dummy, calibration=self._data, weights=self._config.weights,
                activations=activations, observer=tried,
            )  # fmt: skip
            score = score_of(self._score, simulation, f"the simulation with {pair}")
            best = (score, tried) if best is None or score > best[0] else best
        return usual if best is None else best[1]

    def _score(self, model: nn.Module) -> float:
        return self._eval(model, None)
