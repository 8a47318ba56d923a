"""Where a module's inputs, weight and outputs are quantized in a simulation."""

from collections.abc import Mapping
from glob import escape
from typing import Any

import torch
from torch import Tensor, nn

from gracile.compat.nni.common.quant_rules import QuantRules, Target
from gracile.errors import InputError
from gracile.graph import Graph, Node, Ref, capture
from gracile.inputs import Inputs
from gracile.maths.quant_spec import QuantSpec
from gracile.plan import child
from gracile.quant import operators as ops
from gracile.quant.folding import fold_plan
from gracile.quant.rewriting import rewritten
from gracile.quantizer import Quantizer
from gracile.simulation import Simulation
from gracile.surgery import apply

# Module -> target -> what is known of its integers.
CalibrationConfig = dict[str, dict[str, dict[str, Any]]]
_LABELS: Mapping[Target, str] = {"weight": "weight", "input": "_input_0", "output": "_output_0"}


class QuantSites:
    """The program that will be simulated, by the model's modules."""

    def __init__(self, model: nn.Module, example: Inputs, rules: QuantRules) -> None:
        folded = apply(model, fold_plan(model, capture(model, example, training=False))[0])
        self._graph: Graph = rewritten(capture(folded, example, training=False))
        self._rules = rules

    def overrides(self) -> dict[str, dict[str, QuantSpec | None]]:
        """The formats of modules, and of the operators that make what modules read, as `Formats` takes them."""
        found: dict[str, dict[str, QuantSpec | None]] = {}
        for name, targets in self._rules.modules.items():
            formats: dict[str, QuantSpec | None] = {}
            if "weight" in targets:
                formats["weights"] = targets["weight"]
            if "output" in targets:
                formats["activations"] = targets["output"]
            found[escape(name)] = formats
        for name, targets in self._rules.modules.items():
            source = self._source(name) if "input" in targets else None
            if source is None:
                continue
            if source.kind == "call":
                own = self._rules.modules.get(source.module, {})
                if "output" not in own:
                    found.setdefault(escape(source.name), {})["activations"] = targets["input"]
            else:
                found.setdefault(escape(source.op), {})["activations"] = targets["input"]
        return found

    def quantizers(self, simulation: Simulation) -> dict[str, dict[Target, Quantizer]]:
        """Module -> target -> its quantizer, of the modules and targets that the config_list names."""
        named = simulation.named_quantizers()
        at = {site: named[name] for name, sites in simulation.sites.items() for site in sites}
        found: dict[str, dict[Target, Quantizer]] = {}
        for name, targets in self._rules.modules.items():
            sites: dict[Target, list[str]] = {
                "weight": [child(name, "weight")], "input": self._input_sites(name), "output": self._output_sites(name),
            }  # fmt: skip
            for target in targets:
                item = next((at[site] for site in sites[target] if site in at), None)
                if item is not None:
                    found.setdefault(name, {})[target] = item
        return found

    def _nodes(self, module: str) -> list[Node]:
        return [node for node in self._graph.calls if node.module == module]

    def _source(self, module: str) -> Node | None:
        """What made the first operand of the module's first operator."""
        nodes = self._nodes(module)
        if not nodes or not nodes[0].args or not isinstance(nodes[0].args[0], Ref):
            return None
        node = self._graph.nodes[nodes[0].args[0].name]
        while node.kind == "call" and ops.passes(node) and isinstance(node.args[0], Ref):
            node = self._graph.nodes[node.args[0].name]
        return node

    def _input_sites(self, module: str) -> list[str]:
        source = self._source(module)
        return [] if source is None else [source.name, source.op]

    def _output_sites(self, module: str) -> list[str]:
        nodes = self._nodes(module)
        if not nodes:
            return []
        last = nodes[-1]
        # An activation behind a layer is fused with it.
        return [last.name, *self._graph.users[last.name]]


def calibration_config(found: Mapping[str, Mapping[Target, Quantizer]]) -> CalibrationConfig:
    """Module -> target -> scale, zero point, type and range, as NNI 3 has it."""
    return {
        name: {_LABELS[target]: _described(item) for target, item in targets.items()} for name, targets in found.items()
    }


def take_calibration(
    found: Mapping[str, Mapping[Target, Quantizer]], config: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> None:
    """Give quantizers the scales of a calibration config.

    Raises:
        InputError: it has modules or targets that are not quantized, or scales that do not fit.
    """
    labels = {label: target for target, label in _LABELS.items()}
    for name, targets in config.items():
        for label, values in targets.items():
            item = found.get(name, {}).get(labels.get(label, "weight")) if label in labels else None
            if item is None:
                raise InputError(f"calibration_config has {label!r} of {name!r}, which is not quantized")
            kind = values.get("quant_dtype", item.spec.name)
            if kind != item.spec.name:
                raise InputError(
                    f"calibration_config has {kind} for {label!r} of {name!r}, which is quantized as {item.spec.name}"
                )
            scale, zero_point = (torch.as_tensor(values[key]).flatten() for key in ("scale", "zero_point"))
            if scale.numel() != item.scale.numel() or zero_point.numel() != item.scale.numel():
                raise InputError(
                    f"calibration_config: {label} of {name!r} has {scale.numel()} scales and the quantizer "
                    f"{item.scale.numel()}"
                )
            item.scale.copy_(scale.reshape(item.scale.shape))
            item.zero_point.copy_(zero_point.reshape(item.zero_point.shape))
            item.enabled = True


def _described(item: Quantizer) -> dict[str, Any]:
    low, high = item.range
    return {
        "scale": _plain(item.scale),
        "zero_point": _plain(item.zero_point),
        "quant_dtype": item.spec.name,
        "quant_scheme": "symmetric" if item.spec.symmetric else "affine",
        "quant_bits": item.spec.bits,
        "tracked_min": _plain(low),
        "tracked_max": _plain(high),
    }


def _plain(value: Tensor) -> Tensor:
    return value.detach().clone().cpu()
