"""The Edits of quantization: batch-norms folded into layers; quantizers, and factors in front of them, put into a
simulation.
"""

from dataclasses import replace
from math import prod
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt

from gracile.cost import Cost
from gracile.errors import PlanError
from gracile.graph import Graph, Spec
from gracile.maths.quant_spec import QuantSpec
from gracile.program import Program

# Scales of one tensor: blocks of 16 in a weight of 2^30 numbers.
_MOST = 2**26


def _of_a_size(shape: tuple[int, ...]) -> tuple[int, ...]:
    if prod(shape) > _MOST:
        raise ValueError(f"the shape {list(shape)} has more than {_MOST} numbers")
    return shape


_Shape: TypeAlias = Annotated[tuple[PositiveInt, ...], AfterValidator(_of_a_size)]


class FoldBatchNorm(BaseModel):
    """Fold a batch-norm, as it computes in evaluation, into the layer before or behind it; `nn.Identity` stays, or the
    ``rest`` of its forward.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    edit: Literal["fold_batch_norm"] = "fold_batch_norm"
    # The batch-norm's name at this Edit's moment.
    module: str
    # The convolution (transposed ones included) or linear layer that takes it in.
    into: str
    # Whether the batch-norm follows the layer, or comes before it.
    place: Literal["after", "before"] = "after"
    # What a class of batch-norms with an activation in its forward still computes; None for torch's own.
    rest: Program | None = None

    def __str__(self) -> str:
        return f"fold {self.module or '(model)'} into {self.into or '(model)'}, which it comes {self.place}"

    def reprice(self, cost: Cost, graph: Graph) -> Cost:
        """The cost of the model after this Edit.

        Raises:
            PlanError: there is no such batch-norm or layer.
        """
        gone = {name for name in cost.tensors if name.rpartition(".")[0] == self.module}
        weight = graph.canonical(f"{self.into}.weight" if self.into else "weight")
        if not gone or weight not in cost.tensors:
            raise PlanError(f"{self}: the model has no such modules; was the plan made for another model?")
        into = weight.rpartition(".")[0]
        bias = f"{into}.bias" if into else "bias"
        tensors = {name: spec for name, spec in cost.tensors.items() if name not in gone}
        channels = next(cost.tensors[name] for name in sorted(gone) if name.endswith("running_mean"))
        if bias not in tensors:
            size = channels.shape[0] if self.place == "after" else self._outputs(cost, weight)
            tensors[bias] = Spec((size,), tensors[weight].dtype)
        operations = tuple(
            replace(operation, bias=bias) if operation.weight == weight else operation for operation in cost.operations
        )
        parameters = (cost.parameters - gone) | {bias}
        return replace(cost, operations=operations, tensors=tensors, parameters=parameters)

    @staticmethod
    def _outputs(cost: Cost, weight: str) -> int:
        shape = next((o.shape for o in cost.operations if o.weight == weight and o.shape is not None), None)
        return shape.outputs if shape is not None else cost.tensors[weight].shape[1]


class Quantize(BaseModel):
    """Put one quantizer into a simulation, at one value or at several that share its scale."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    edit: Literal["quantize"] = "quantize"
    # The quantizer's name: it becomes the module quantizers.<name>.
    name: str = Field(pattern=r"^[A-Za-z0-9_]+$")
    # "weight": sites are parameters or buffers; "activation": they are steps or inputs of the simulation's program.
    role: Literal["weight", "activation"]
    sites: tuple[str, ...] = Field(min_length=1)
    spec: QuantSpec
    # The shape of the scale and of the zero point.
    shape: _Shape = ()
    # Of an activation, the steps that read the value as it was before, past the quantizer; "output" is the program's
    # result.
    past: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"quantize {', '.join(self.sites)} to {self.spec}"

    def reprice(self, cost: Cost, graph: Graph) -> Cost:
        """The cost of the file that a simulation is exported to: integers, their scales and zero points.

        MACs stay: their number is the same in integers.

        Raises:
            PlanError: there is no such weight.
        """
        # Scales are float32; zero points have the type of the levels.
        levels = prod(self.shape)
        if self.role == "activation":
            taken = 4 * levels + _bytes(levels, max(8, self.spec.stored_bits))
            return replace(cost, integers={**cost.integers, f"quantizers.{self.name}": taken})
        overhead = 4 * levels + _bytes(levels, self.spec.stored_bits)
        integers = dict(cost.integers)
        for site in self.sites:
            name = graph.canonical(site)
            if name not in cost.tensors:
                raise PlanError(f"{self}: the model has no parameter {site!r}; was the plan made for another model?")
            integers[name] = _bytes(cost.tensors[name].numel, self.spec.stored_bits) + overhead
        return replace(cost, integers=integers)


class ScaleChannels(BaseModel):
    """Multiply what a simulation's quantizer takes by fixed factors, one for each channel."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    edit: Literal["scale_channels"] = "scale_channels"
    # The quantizer of an activation, with one site; the factors become the buffer quantizers.<name>_factors.factors.
    quantizer: str
    # The shape of the factors; it broadcasts against the value.
    shape: _Shape = Field(min_length=1)

    def __str__(self) -> str:
        return f"scale the channels that {self.quantizer} takes by {prod(self.shape)} factors"

    def reprice(self, cost: Cost, graph: Graph) -> Cost:  # noqa: ARG002 - as other Edits
        """The cost of the file that a simulation is exported to: its factors are float32."""
        return replace(
            cost, integers={**cost.integers, f"quantizers.{self.quantizer}_factors": _bytes(prod(self.shape), 32)}
        )


def _bytes(count: int, bits: int) -> int:
    return -(-count * bits // 8)
