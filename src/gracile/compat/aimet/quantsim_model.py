"""`QuantizationSimModel`, for ``aimet_torch.quantsim``."""

import functools
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from glob import escape
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gracile.compat.aimet.common.quantization import CallbackFunc, QuantizationDataType, QuantScheme
from gracile.compat.aimet.exporting import encodings_to_json, export
from gracile.compat.aimet.following import FollowingRange
from gracile.compat.aimet.module_names import ModuleNames
from gracile.compat.aimet.quant_config import quant_config
from gracile.compat.aimet.settled import make_plain, settled, with_rounded_weights
from gracile.errors import InputError
from gracile.export.encodings import load_encodings, read_encodings
from gracile.inputs import ExampleInputs, Inputs
from gracile.quant.calibration import fit_weights, observed
from gracile.quant.formats import Formats
from gracile.quant.method import simulate
from gracile.quant.observers import ObserverMaker, Percentile, observer_maker
from gracile.quant.training import QuantizedTraining
from gracile.report import Record
from gracile.simulation import Simulation

__all__ = ["QuantParams", "QuantScheme", "QuantizationDataType", "QuantizationSimModel", "load_encodings_to_sim"]

log = logging.getLogger(__name__)

_UNSET = object()


@dataclass
class QuantParams:
    """How `correct_bias` quantizes: bits of weights and activations, and how ranges are chosen."""

    weight_bw: int = 8
    act_bw: int = 8
    round_mode: str = "nearest"
    quant_scheme: QuantScheme | str = QuantScheme.post_training_tf_enhanced
    config_file: str | PathLike[str] | None = None


class QuantizationSimModel:
    """A model simulated in integers, as AIMET calls it.

    ``model`` is a `gracile.simulation.Simulation`, which is called as the original is: batch-norms are folded, and
    quantizers stand where integer runtimes have them, at functional operations, too.  Use it for evaluation, and train
    it: with the schemes of range learning the ends of the ranges are parameters after `compute_encodings`, with the
    others weights' ranges follow the weights and activations' ranges stay.

    Args:
        model: stays as it is.
        dummy_input: a tensor, a tuple of positional arguments or a dictionary of keywords.
        quant_scheme: a `QuantScheme`, or "tf", "tf_enhanced", "percentile"; None is "tf_enhanced".
        rounding_mode: "nearest", the only one.
        default_output_bw, default_param_bw: bits of activations and weights.
        in_place: has no effect: a captured program is simulated, and the model stays as it is.
        config_file: a JSON file of AIMET's; see `gracile.compat.aimet.quant_config.quant_config` for what counts.
        default_data_type: integers.

    Raises:
        InputError: an argument is wrong, or nothing can be quantized.
        FileError: the configuration cannot be read.
        CaptureError: the model cannot be captured.
    """

    def __init__(
        self,
        model: nn.Module,
        dummy_input: ExampleInputs | Inputs,
        quant_scheme: QuantScheme | str | None = None,
        rounding_mode: str | None = None,
        default_output_bw: int = 8,
        default_param_bw: int = 8,
        in_place: bool = False,
        config_file: str | PathLike[str] | None = None,
        default_data_type: QuantizationDataType = QuantizationDataType.int,
    ) -> None:
        if not isinstance(model, nn.Module) or isinstance(model, Simulation):
            raise InputError(f"model is a {type(model).__name__}; give the floating-point torch.nn.Module")
        self._scheme = QuantScheme.of(quant_scheme)
        _require_nearest("rounding_mode", rounding_mode)
        self._config = quant_config(default_output_bw, default_param_bw, config_file, default_data_type)
        if in_place:
            log.info("in_place has no effect: the model stays as it is")
        self._original = model
        self._inputs = Inputs.of(dummy_input)
        self._maker: ObserverMaker = observer_maker(self._scheme.observer)
        self._overrides: dict[str, Any] = {
            escape(name): formats for name, formats in self._config.overrides(model).items()
        }
        self._excluded: list[str] = []
        self._frozen: set[str] = set()
        # Names of parameters that stay in floating point.
        self._floating: set[str] = set()
        self._computed = False
        self.model = self._simulated()

    @property
    def example(self) -> Inputs:
        """What the simulation was made for."""
        return self._inputs

    def compute_encodings(
        self, forward_pass_callback: Callable[..., Any], forward_pass_callback_args: Any = _UNSET
    ) -> None:
        """Set all ranges: of weights by themselves, of activations by what the callback runs.

        Args:
            forward_pass_callback: called once with the model, which computes in floating point and evaluation mode
                meanwhile, and with the arguments where they are given; it passes some hundred examples through.

        Raises:
            InputError: it is no function, does not run the model, or values are not finite.
        """
        if not callable(forward_pass_callback):
            raise InputError(
                f"forward_pass_callback is a {type(forward_pass_callback).__name__}; give a function of the model and "
                "of forward_pass_callback_args"
            )
        make_plain(self.model)
        fit_weights(self.model, observer=self._maker, skip=self._frozen)
        given = () if forward_pass_callback_args is _UNSET else (forward_pass_callback_args,)
        with observed(self.model, self._maker, skip=self._frozen):
            forward_pass_callback(self.model, *given)
        self._computed = True
        self._make_trainable()

    def set_percentile_value(self, percentile_value: float) -> None:
        """The share of the values, in percent, that ranges hold with the percentile scheme; 99.99 by default.

        Raises:
            InputError: another scheme, or no share.
        """
        if self._scheme is not QuantScheme.post_training_percentile:
            raise InputError(f"a percentile goes with post_training_percentile, not with {self._scheme.name}")
        Percentile(percentile_value)
        self._maker = functools.partial(Percentile, percentile_value)

    def exclude_layers_from_quantization(self, layers_to_exclude: Iterable[nn.Module]) -> None:
        """Leave these modules, and all that is in them, in floating point; before `compute_encodings`.

        Args:
            layers_to_exclude: modules of the model or of ``sim.model``.

        Raises:
            InputError: a module is not part of either, or ranges are set already.
        """
        if self._computed or self._frozen:
            raise InputError("exclude layers before compute_encodings and before encodings are loaded or frozen")
        original, own = ModuleNames(self._original), ModuleNames(self.model)
        simulated = {id(module) for module in self.model.modules()}
        for module in list(layers_to_exclude):
            names = own if id(module) in simulated else original
            name = escape(names.name(module, "layers_to_exclude"))
            self._excluded += [name, f"{name}.*"]
        self.model = self._simulated()

    def exclude_param_from_quantization(self, param_name_to_exclude: str) -> None:
        """Leave all parameters of that name in floating point, as "weight"; biases are not quantized anyway."""
        self._floating.add(param_name_to_exclude)
        self._switch_off(self.model)

    def load_encodings(
        self,
        encodings: str | PathLike[str] | Mapping[str, Any],
        strict: bool = True,
        partial: bool = True,
        requires_grad: bool | None = None,
        allow_overwrite: bool | None = True,
    ) -> None:
        """Take over ranges of a file that `export` or `save_encodings_to_json` wrote.

        Args:
            encodings: the file, or what is in it.
            strict: encodings of what the simulation does not quantize are an error.
            partial: quantizers that the file does not list stay as they are; otherwise they are switched off.
            requires_grad: whether loaded ranges are learned further; None leaves that to the scheme.
            allow_overwrite: False freezes what was loaded.

        Raises:
            FileError: the file cannot be read, or does not fit.
        """
        make_plain(self.model)
        source = encodings if isinstance(encodings, Mapping) else Path(encodings)
        load_encodings(self.model, source, strict=strict, partial=partial)
        self._computed = True
        if allow_overwrite is False or requires_grad is False:
            self._freeze(read_encodings(source))
        self._make_trainable()

    def load_and_freeze_encodings(
        self, encoding_path: str | PathLike[str], ignore_when_quantizer_disabled: bool = False
    ) -> None:
        """`load_encodings`, and keep these ranges in `compute_encodings` and in training."""
        self.load_encodings(encoding_path, strict=not ignore_when_quantizer_disabled, allow_overwrite=False)

    def set_and_freeze_param_encodings(self, encoding_path: str | PathLike[str]) -> None:
        """Take over the ranges of parameters that `Adaround` wrote, and keep them; activations' are left to
        `compute_encodings`.

        Raises:
            FileError: the file cannot be read, or does not fit.
        """
        entries = read_encodings(Path(encoding_path), parameters_only=True)
        make_plain(self.model)
        content = {"version": "1.0.0", "activation_encodings": [], "param_encodings": [
            {**entry, "name": name} for name, entry in entries.items()
        ]}  # fmt: skip
        load_encodings(self.model, content, partial=True)
        self._freeze(entries)
        if self._computed:
            self._make_trainable()

    def save_encodings_to_json(self, path: str | PathLike[str], filename_prefix: str) -> Path:
        """Write the ranges to ``path/filename_prefix.json``."""
        return encodings_to_json(self.model, Path(path) / f"{filename_prefix}.json")

    def export(
        self,
        path: str | PathLike[str],
        filename_prefix: str,
        dummy_input: ExampleInputs,
        onnx_export_args: Any = None,
        propagate_encodings: bool = False,
        export_to_torchscript: bool = False,
        use_embedded_encodings: bool = False,
        export_model: bool = True,
        filename_prefix_encodings: str | None = None,
    ) -> None:
        """Write ``prefix.onnx``, ``prefix.encodings``, ``prefix_torch.encodings`` and ``prefix.pth``.

        The ONNX file holds weights as integers with QuantizeLinear and DequantizeLinear, so that onnxruntime runs it
        as integers; AIMET's holds floats, to be joined with the encodings.  Both files of encodings are the same, with
        the names of the program's steps.  The .pth file is the state_dict with weights on their levels, to be read
        with ``torch.load(weights_only=True)``; AIMET pickles the model.

        Args:
            onnx_export_args: of a dictionary, or of an object's attributes, ``opset_version`` counts from 21 on, and
                ``dynamic_axes`` where it is not empty: the batch size is free then.
            propagate_encodings, use_embedded_encodings: have no effect, as every quantized value has its own pair.
            export_to_torchscript: refused.
            export_model: False writes the encodings alone.
            filename_prefix_encodings: another prefix for these.

        Raises:
            InputError: TorchScript is asked for, or ranges are missing.
            MissingExtraError, ExportError, FileError: the ONNX file cannot be written.
        """
        if export_to_torchscript:
            raise InputError(
                "export_to_torchscript: TorchScript is not written; gracile.export.to_program writes torch.export's "
                "programs"
            )
        for name, given in (
            ("propagate_encodings", propagate_encodings), ("use_embedded_encodings", use_embedded_encodings),
        ):  # fmt: skip
            if given:
                log.info("%s has no effect: the ONNX file has a pair at every quantized value", name)
        names = (filename_prefix, filename_prefix_encodings or filename_prefix)
        export(self.model, Path(path), names, dummy_input, onnx_export_args if export_model else None, export_model)

    @staticmethod
    def get_original_model(model: Simulation, qdq_weights: bool = False) -> Simulation:
        """A copy of ``sim.model`` that computes in floating point, with weights on their levels where asked."""
        made = with_rounded_weights(model) if qdq_weights else settled(model)
        for item in made.named_quantizers().values():
            item.enabled = False
        return made

    def plain_model(self) -> Simulation:
        """A copy of ``model`` whose quantizers are not trained."""
        return settled(self.model)

    def settings(self) -> dict[str, Any]:
        """What a checkpoint holds beside the model."""
        return {"scheme": self._scheme.name, "frozen": sorted(self._frozen), "computed": self._computed}

    @classmethod
    def of_simulation(
        cls, simulation: Simulation, model: nn.Module, dummy_input: ExampleInputs, *, scheme: QuantScheme,
        frozen: set[str], computed: bool,
    ) -> "QuantizationSimModel":  # fmt: skip
        """One whose ``model`` is a simulation that was made before; for `load_checkpoint`."""
        made = cls(model, dummy_input, scheme)
        made.model, made._frozen, made._computed = simulation, frozen, computed
        made._make_trainable()
        return made

    @property
    def original(self) -> nn.Module:
        """The floating-point model."""
        return self._original

    def inputs_of(self, forward_pass_callback: CallbackFunc) -> list[Inputs]:
        """What the callback gives the model to read.

        Raises:
            InputError: it does not run the model.
        """
        seen: list[Inputs] = []

        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.append(Inputs(args, kwargs))

        handle = self.model.register_forward_pre_hook(hook, with_kwargs=True)
        try:
            with torch.no_grad(), self.model.only(weights=False, activations=False):
                forward_pass_callback(self.model)
        finally:
            handle.remove()
        if not seen:
            raise InputError("forward_pass_callback does not run the model that it is given")
        return seen

    def set_widths(self, output_bw: int, param_bws: Mapping[str, int], param_bw: int) -> None:
        """Simulate anew with these bits of activations and weights, patterns of modules first; ranges are gone."""
        config = replace(
            self._config,
            weights=self._config.weights.model_copy(update={"bits": param_bw}),
            activations=self._config.activations and self._config.activations.model_copy(update={"bits": output_bw}),
        )
        self._config = config
        self._overrides = {escape(name): dict(formats) for name, formats in config.overrides(self._original).items()}
        for pattern, bits in param_bws.items():
            spec = config.weights.model_copy(update={"bits": bits})
            self._overrides[pattern] = {**self._overrides.get(pattern, {}), "weights": spec}
        self._frozen, self._computed = set(), False
        self.model = self._simulated()

    def search_weights(self, search: Callable[[Simulation], Record], excluded: Collection[str] = ()) -> None:
        """Let ``search`` choose ranges of weights, and freeze those of the layers that it changed.

        Args:
            excluded: modules whose weights, and those of all modules in them, keep their ranges.
        """
        make_plain(self.model)
        weights = self.model.named_quantizers("weight")
        unset = {name for name, item in weights.items() if not bool(torch.isfinite(item.scale).all())}
        fit_weights(self.model, observer=self._maker, skip=weights.keys() - unset)
        layers = {name: self.model.sites[name][0].rpartition(".")[0] for name in weights}
        kept = {name for name, layer in layers.items() if _within(layer, excluded)} | (self._frozen & weights.keys())
        before = {name: (weights[name].scale.clone(), weights[name].zero_point.clone()) for name in kept}
        with self.model.only(activations=self._computed):
            changed = set(search(self.model).changed)
        for name, (scale, zero_point) in before.items():
            weights[name].scale.copy_(scale)
            weights[name].zero_point.copy_(zero_point)
        self._frozen |= {name for name, layer in layers.items() if layer in changed and name not in kept}
        self._make_trainable()

    def _simulated(self) -> Simulation:
        formats = Formats(
            self._config.weights, self._config.activations, overrides=self._overrides, exclude=self._excluded
        )
        simulation, placement = simulate(self._original, self._inputs, formats)
        if not placement.edits:
            raise InputError("nothing is left to quantize; look at the excluded layers and at config_file")
        self._switch_off(simulation)
        return simulation

    def _switch_off(self, simulation: Simulation) -> None:
        """The quantizers of parameters that were excluded by name, in a simulation that is made anew, too."""
        for name, item in simulation.named_quantizers("weight").items():
            if simulation.sites[name][0].rpartition(".")[2] in self._floating:
                item.enabled = False

    def _freeze(self, entries: Mapping[str, Any]) -> None:
        self._frozen |= {name for name, sites in self.model.sites.items() if any(site in entries for site in sites)}

    def _make_trainable(self) -> None:
        found = self.model.named_quantizers()
        if not all(bool(torch.isfinite(item.scale).all()) for item in found.values()):
            return
        if self._scheme.learns:
            QuantizedTraining("range").prepare(self.model)
            for name in self._frozen:
                self.model.quantizers[name].hold()  # type: ignore[operator]
            return
        for name, item in self.model.named_quantizers("weight").items():
            made = FollowingRange(item, self._maker)
            if name in self._frozen:
                made.hold()
            self.model.quantizers[name] = made


def _within(name: str, modules: Collection[str]) -> bool:
    return any(name == item or name.startswith(f"{item}.") or not item for item in modules)


def load_encodings_to_sim(quant_sim_model: QuantizationSimModel, pytorch_encoding_path: str | PathLike[str]) -> None:
    """Take over all ranges of a file that `QuantizationSimModel.export` wrote; what it does not list is switched off.

    Raises:
        FileError: the file cannot be read, or does not fit.
    """
    quant_sim_model.load_encodings(pytorch_encoding_path, partial=False)


def _require_nearest(name: str, value: Any) -> None:
    if value not in (None, "nearest"):
        raise InputError(f"{name} is {value!r}; integers are rounded to the 'nearest', as runtimes do")
