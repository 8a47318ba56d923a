"""Integers as the last stage: the model that is left, simulated in integers."""

from collections.abc import Iterator, Sequence

from torch import nn

from gracile.cost import Cost, Metric, price
from gracile.errors import TargetError
from gracile.graph import Graph, capture
from gracile.inputs import Calibration
from gracile.pipeline.request import Request
from gracile.pipeline.selection import Selection
from gracile.pipeline.tuning import FineTune, fine_tuned
from gracile.quant.calibration import calibrate, fit_weights
from gracile.quant.folding import fold_plan
from gracile.quant.formats import Formats
from gracile.quant.method import simulate
from gracile.quant.trained import TrainedQuantizer
from gracile.quant.training import QuantizedTraining
from gracile.report import LayerReport, Record, Totals
from gracile.simulation import Simulation
from gracile.surgery import applied_since
from gracile.train import Recovery, recover


class Integers:
    """The stage of one job that ends in integers; see `gracile.pipeline.stage.Reported`.

    Args:
        request: with the format of the weights, its last method.
        model: left as it is.
        graph: its program.
    """

    def __init__(self, request: Request, model: nn.Module, graph: Graph) -> None:
        assert request.integers is not None
        self.method: str = request.integers
        self._original, self._graph = model, graph
        formats = Formats(request.integers, "uint8", exclude=request.exclude)
        self.simulation, self._placement = simulate(model, graph.example, formats)
        self.model: nn.Module = self.simulation
        self.notes: tuple[str, ...] = ()
        if not self.simulation.named_quantizers("weight"):
            self.notes = (f"{self.method}: no weight could be quantized; see the reasons by layer",)

    @property
    def cost(self) -> Cost:
        """Of the simulation as a file of integers."""
        return applied_since(self.model, self._original).cost(self._graph)

    def require_within(self, bound: float) -> None:
        """Raises TargetError where the integers take more than ``bound`` bytes."""
        found = self.cost.bytes
        if found > bound:
            raise TargetError(
                f"the target of {bound:.6g} bytes cannot be reached by {self.method} alone, which leaves {found}. Ways "
                f"out: a higher target, fewer excluded layers, a method before it as in 'prune+{self.method}'"
            )

    def carry_out(self, data: Calibration) -> Sequence[Record]:
        """Set all ranges."""
        return (fit_weights(self.simulation), calibrate(self.simulation, data, self._graph.example))

    def trained(self, fine_tune: FineTune, times: int = 1) -> Record:
        """Train with the quantizers in the loop, gradients straight through; ranges follow."""
        run = QuantizedTraining("qat").prepare(self.simulation)
        tuned = fine_tuned(fine_tune, self.simulation, times)
        assert isinstance(tuned, Simulation)
        record = run.finish()
        for name, item in tuned.named_quantizers().items():
            # What `fine_tune` returned may be a copy.
            if isinstance(item, TrainedQuantizer):
                tuned.quantizers[name] = item.plain()
        self.model = self.simulation = tuned
        fit_weights(tuned)
        return record

    def taught(self, original: nn.Module, data: Calibration, options: Recovery, seed: int) -> Record:
        """Learn what ``original`` does, in place, with the quantizers in the loop; ranges follow."""
        graph = capture(self.simulation, self._graph.example)
        run = QuantizedTraining("qat").prepare(self.simulation)
        try:
            return recover(self.simulation, original, data, example_inputs=graph, options=options, seed=seed)
        finally:
            run.finish()
            fit_weights(self.simulation)

    def layer_reports(self, selection: Selection, metric: Metric) -> Iterator[LayerReport]:  # noqa: ARG002
        """One row a module with weights in integers, then what stays in floating point and why."""
        before = {layer.name: layer for layer in price(self._graph).layers}
        after = {layer.name: layer for layer in self.cost.layers}
        sites = self.simulation.sites
        weights = [sites[name][0] for name in self.simulation.named_quantizers("weight")]
        for module in dict.fromkeys(weight.rpartition(".")[0] for weight in weights):
            old, new = before.get(module), after.get(module)
            if old is None or new is None:
                yield LayerReport(name=module, method=self.method)
                continue
            yield LayerReport(
                name=module,
                method=self.method,
                got=new.bytes / max(1, old.bytes),
                before=Totals(macs=old.macs, params=old.params, bytes=old.bytes),
                after=Totals(macs=new.macs, params=new.params, bytes=new.bytes),
            )
        _, unfolded = fold_plan(self._original, self._graph)
        for name, reason in unfolded.items():
            yield LayerReport(name=name, method=self.method, reason=f"the batch-norm is not folded: {reason}")
        for node, reason in self._placement.left.items():
            yield LayerReport(name=node, method=self.method, reason=f"stays in floating point: {reason}")
