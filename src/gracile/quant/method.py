"""`quantize`: a simulation of a model in integers, calibrated."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from gracile.cutting.whole import whole_program
from gracile.errors import CaptureError, InputError
from gracile.graph import capture, eval_mode, require_copyable, require_finite
from gracile.inputs import ExampleInputs, Inputs
from gracile.maths.quant_spec import PerTensor, quant_spec
from gracile.oracle import largest, largest_difference, outputs_of
from gracile.plan import Plan, ReplaceModule
from gracile.quant.calibration import calibrate, fit_weights
from gracile.quant.folding import fold_plan
from gracile.quant.formats import Format, Formats
from gracile.quant.observers import ObserverMaker, observer_maker
from gracile.quant.operators import NOT_RECURRENT
from gracile.quant.placement import Placement, place
from gracile.quant.rewriting import rewritten
from gracile.simulation import Simulation
from gracile.surgery import apply

log = logging.getLogger(__name__)


def quantize(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    calibration: Iterable[Any] | None = None,
    weights: Format = "int8",
    activations: Format = "uint8",
    method: Literal["ptq", "naive"] = "ptq",
    observer: str | ObserverMaker | Mapping[str, str | ObserverMaker] = "mse",
    overrides: Mapping[str, Any] | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    seed: int = 0,
) -> Simulation:
    """Simulate ``model`` in integers: batch-norms folded, quantizers where integer runtimes have them, ranges set.

    The defaults are what onnxruntime's integer kernels take on every CPU.  Weights are int8 with one symmetric scale
    for each output channel, which costs a kernel nothing (its sums are per output channel), and without the level -128,
    so that no product of two levels overflows.  Activations are uint8 with one affine scale for each tensor: that is
    the pair of types with the fastest kernels on x86, a zero point makes ReLU a bound of the levels, and scales inside
    of a sum could not be taken out of it.  `gracile.testing` and the page on quantization tell more.

    Args:
        model: left as it is.
        example_inputs: inputs of real shapes; the batch size is free where the model allows it.
        calibration: any iterable of inputs or ``(inputs, labels)``; a few hundred examples do.  Not needed where
            ``activations`` is None.
        weights: "int8", "int4", ... or a `QuantSpec`; None leaves them in floating point.  By name one symmetric,
            narrow scale for each output channel.  Of a spec per channel or per block the axis is chosen for each
            layer: channels along the outputs, blocks along the inputs.
        activations: "uint8", "int16", ... or a `QuantSpec` per tensor or per channel; None leaves them as they are.
        method: "ptq", or "naive": the weights alone, in eight bits with the scale max |w| / 127 for each tensor, as
            NNI's Naive quantizer (which rounds towards zero; here, as integer runtimes do, to the nearest).
        observer: how ranges are chosen: "minmax", "moving_average", "percentile", "mse", "sqnr", "entropy", or a class
            of your own.  Of activations; those of weights are smallest and largest unless a dictionary
            ``{"weights": ..., "activations": ...}`` says otherwise.
        overrides: shell pattern of modules -> None (floating point) or ``{"weights": ..., "activations": ...}``; later
            patterns win.  A pattern matches the module that runs an operator, or the operator's node.
        include: patterns of the only modules to quantize; all by default.
        exclude: patterns of modules that stay in floating point.
        seed: for the order of a shuffling data loader.

    Returns:
        A module that is called as the model is; see `gracile.simulation.Simulation`.
        ``gracile.export.checkpoint.save`` keeps it and ``gracile.load`` restores it, bit for bit.

    Raises:
        InputError: an argument is wrong, calibration data is missing or does not fit, or values are not finite.
        CaptureError: the model cannot be captured, or its program computes something else.
        PlanError: the program holds what cannot be written down, such as an operator that is not torch's.
    """
    formats, makers = _checked(weights, activations, method, observer, overrides, include, exclude)
    inputs = Inputs.of(example_inputs)
    if formats.wants_activations and calibration is None:
        raise InputError(
            "activations need calibration data; give calibration=[batch, ...], some hundred inputs without labels, or "
            "activations=None to quantize the weights alone"
        )
    simulation, placement = simulate(model, inputs, formats)
    if not placement.edits:
        raise InputError("nothing is left to quantize; look at weights, activations, include, exclude and overrides")
    fit_weights(simulation, observer=makers["weights"])
    if calibration is not None and simulation.named_quantizers("activation"):
        calibrate(simulation, calibration, inputs, observer=makers["activations"], seed=seed)
    return simulation


def simulate(model: nn.Module, inputs: Inputs, formats: Formats) -> tuple[Simulation, Placement]:
    """The simulation, its ranges not yet set, and what was placed.

    Raises:
        InputError, CaptureError, PlanError: see `quantize`.
    """
    _refuse_parametrized(model)
    graph = capture(model, inputs, training=False)
    require_copyable(model)
    require_finite(model)
    folds, unfolded = fold_plan(model, graph)
    for module, reason in unfolded.items():
        log.info("batch-norm %s is not folded: %s", module, reason)
    folded = apply(model, folds)
    graph = rewritten(capture(folded, inputs, training=False))
    program = whole_program(folded, graph, rewritten)
    placement = place(graph, formats)
    for pattern in placement.unmatched:
        log.warning("the pattern %r matches no module and no operator of the model", pattern)
    recurrent = {graph.nodes[name].module for name, reason in placement.left.items() if reason == NOT_RECURRENT}
    if recurrent:
        log.warning("%s: stays in floating point: %s", ", ".join(sorted(recurrent)), NOT_RECURRENT)
    plan = Plan(edits=(ReplaceModule(module="", by="simulation", program=program), *placement.edits))
    simulation = apply(folded, plan, inplace=True)
    assert isinstance(simulation, Simulation)
    _require_same(model, simulation, inputs)
    return simulation, placement


def _checked(
    weights: Format,
    activations: Format,
    method: str,
    observer: str | ObserverMaker | Mapping[str, str | ObserverMaker],
    overrides: Mapping[str, Any] | None,
    include: Sequence[str] | None,
    exclude: Sequence[str],
) -> tuple[Formats, dict[str, ObserverMaker]]:
    if method not in ("ptq", "naive"):
        raise InputError(f"method is {method!r}; give 'ptq' or 'naive'")
    given = dict(observer) if isinstance(observer, Mapping) else {"activations": observer}
    if not given.keys() <= {"weights", "activations"}:
        raise InputError(f"observer has the keys {sorted(given)}; there are 'weights' and 'activations'")
    makers = {kind: observer_maker(given.get(kind, usual)) for kind, usual in _USUAL.items()}
    if method == "naive":
        weights, activations = quant_spec("int8", granularity=PerTensor(), narrow=True), None
        makers["weights"] = observer_maker("minmax")
    return Formats(weights, activations, overrides, include, exclude), makers


_USUAL = {"weights": "minmax", "activations": "mse"}


def _refuse_parametrized(model: nn.Module) -> None:
    for path, module in model.named_modules() if isinstance(model, nn.Module) else ():
        if nn.utils.parametrize.is_parametrized(module):
            raise InputError(
                f"{path or 'the model'} has parametrized tensors; make them plain with "
                "torch.nn.utils.parametrize.remove_parametrizations, masks with gracile.prune.unmask"
            )


@torch.no_grad()
def _require_same(model: nn.Module, simulation: Simulation, inputs: Inputs) -> None:
    """Raises CaptureError where the program, its quantizers off, computes something else than the model."""
    with eval_mode(model), eval_mode(simulation), simulation.only(weights=False, activations=False):
        wanted, found = outputs_of(inputs.call(model)), outputs_of(inputs.call(simulation))
    if not wanted:
        raise InputError(
            f"{type(model).__name__} returns no tensor of floating-point numbers, so there is nothing to compare a "
            "simulation with; quantize the part of it that returns the scores"
        )
    if any(bool(item.isnan().any()) for item in wanted):
        raise InputError(
            f"{type(model).__name__} returns NaN for the example inputs, so that nothing can be compared with it; look "
            "for NaN in example_inputs, or give others"
        )
    error = largest_difference(found, wanted) / largest(wanted)
    limit = 1e-3 if min(item.dtype.itemsize for item in wanted) > 2 else 0.1
    if not error <= limit:
        raise CaptureError(
            f"the captured program differs from the model by {error:.3g} of its largest output: does the model compute "
            "something else each time, or write into its inputs or buffers?"
        )
