"""Simulations of small networks, with quantizers where these tests want them."""

from collections.abc import Callable, Iterable

import torch
from torch import nn

from gracile.cutting.whole import whole_program
from gracile.graph import bare_name, capture
from gracile.maths.fake_quant import rows_of, scale_shape
from gracile.maths.quant_spec import PerChannel, QuantSpec, quant_spec
from gracile.plan import Plan, ReplaceModule
from gracile.quant.folding import fold_plan
from gracile.quant.rewriting import rewritten
from gracile.quant_edits import Quantize
from gracile.quantizer import Quantizer
from gracile.simulation import Simulation
from gracile.surgery import apply

PER_CHANNEL = quant_spec("int8", granularity=PerChannel(axis=0))
_LAYERS = {"conv1d", "conv2d", "conv3d", "linear", "embedding"}
_VALUES = _LAYERS | {
    "relu",
    "add",
    "matmul",
    "mean",
    "mul",
    "softmax",
    "gelu",
    "layer_norm",
    "max_pool2d",
    "adaptive_avg_pool2d",
}


class Extremes:
    """Observes the smallest and the largest value."""

    def __init__(self) -> None:
        self.low = self.high = None

    def observe(self, values):
        low, high = values.min(1).values, values.max(1).values
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)

    def range(self, spec: QuantSpec):
        return self.low, self.high


def simulated(
    model: nn.Module,
    batches: Iterable,
    *,
    weights: QuantSpec | Callable[[str], QuantSpec | None] = PER_CHANNEL,
    activations: QuantSpec | None = quant_spec("uint8"),  # noqa: B008
) -> Simulation:
    """The model's program with a quantizer at each weight of a layer, and behind each operator that computes."""
    batches = list(batches)
    folded = apply(model, fold_plan(model, capture(model, batches[0]))[0])
    graph = rewritten(capture(folded, batches[0]))
    program = whole_program(folded, graph, rewritten)
    edits: list = [ReplaceModule(module="", by="simulation", program=program)]
    sites: list[tuple[str, str]] = []
    for node in graph.nodes.values():
        kind = bare_name(node.op) if node.kind == "call" else node.kind
        if kind in _LAYERS:
            place = 0 if kind == "embedding" else 1
            sites.append(("weight", graph.source(node.args[place])))
        readers = [bare_name(graph.nodes[user].op) for user in graph.users[node.name] if user in graph.nodes]
        floating = kind in _VALUES or (kind == "input" and graph.example.tensors[0].is_floating_point())
        if floating and readers != ["relu"] and activations is not None:
            sites.append(("activation", node.name))
    for number, (role, site) in enumerate(dict.fromkeys(sites)):
        spec = activations
        if role == "weight":
            spec = weights if isinstance(weights, QuantSpec) else weights(site)
        if spec is not None:
            shape = scale_shape(spec, tuple(folded.get_parameter(site).shape)) if role == "weight" else ()
            edits.append(Quantize(name=f"q{number}", role=role, sites=(site,), spec=spec, shape=shape))
    made = apply(folded, Plan(edits=tuple(edits))).eval()
    calibrate(made, batches)
    return made


@torch.no_grad()
def calibrate(simulation: Simulation, batches: Iterable) -> None:
    for name, quantizer in simulation.named_quantizers("weight").items():
        rows = rows_of(simulation.get_parameter(simulation.sites[name][0]), quantizer.spec)
        quantizer.set_range(rows.min(1).values, rows.max(1).values)
    watching: dict[str, Quantizer] = simulation.named_quantizers("activation")
    for quantizer in watching.values():
        quantizer.observer = Extremes()
    for batch in batches:
        simulation(*batch if isinstance(batch, tuple) else (batch,))
    for quantizer in watching.values():
        quantizer.freeze()
