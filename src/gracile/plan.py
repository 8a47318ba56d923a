"""What will be *changed*: a Plan is a frozen, ordered, JSON-able tuple of Edits.

The Plan holds everything that adds, removes or reshapes a parameter or buffer, or replaces a module or an
attribute; the state_dict holds the values.  An Edit addresses modules by the names that they have at its moment:
after ``Factorize`` of "conv" there are "conv.0" and "conv.1".
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from gracile.channels import after_cutting
from gracile.cost import Cost, Operation, price, resized
from gracile.errors import InputError, PlanError
from gracile.graph import Graph, Spec, require_graph
from gracile.maths.factorize import LayerShape, Scheme, factor_shapes, max_rank
from gracile.program import Program
from gracile.quant_edits import FoldBatchNorm, Quantize, ScaleChannels

VERSION: Literal[1] = 1


def child(module: str, name: str) -> str:
    """The name of a module's child or tensor; the model itself is ""."""
    return f"{module}.{name}" if module else name


class _Edit(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    # The module's name at this Edit's moment; "" is the model itself.
    module: str

    def _priced(self, cost: Cost, graph: Graph) -> tuple[str, list[Operation]]:
        """Name of the module's weight and the operations that apply it as a layer."""
        weight = graph.canonical(child(self.module, "weight"))
        operations = [o for o in cost.operations if o.weight == weight and o.shape is not None]
        if weight not in cost.tensors or not operations:
            raise PlanError(
                f"{self}: the graph has no convolution or linear layer {self.module!r}; "
                "was the plan made for another model, or are its edits in another order?"
            )
        return weight, operations


class Factorize(_Edit):
    """Replace a convolution or linear by two of ``rank`` channels between them, named <module>.0 and <module>.1."""

    edit: Literal["factorize"] = "factorize"
    scheme: Scheme
    rank: PositiveInt

    def __str__(self) -> str:
        return f"factorize {self.module or '(model)'} by {self.scheme} to rank {self.rank}"

    def reprice(self, cost: Cost, graph: Graph) -> Cost:
        """The cost of the model after this Edit.

        Raises:
            PlanError: there is no such layer, or the rank exceeds what its shape allows.
        """
        weight, operations = self._priced(cost, graph)
        shape = operations[0].shape
        assert shape is not None
        self.check(shape)
        bias = operations[0].bias
        owner = weight.rpartition(".")[0]
        first, second = (child(owner, f"{i}.weight") for i in (0, 1))
        tensors = dict(cost.tensors)
        dtype = tensors.pop(weight).dtype
        shapes = factor_shapes(self.scheme, shape, self.rank)
        tensors |= {first: Spec(shapes[0].weight, dtype), second: Spec(shapes[1].weight, dtype)}
        names = {weight: {first, second}}
        if bias is not None:
            tensors[child(owner, "1.bias")] = tensors.pop(bias)
            names[bias] = {child(owner, "1.bias")}
        operations_after = [
            made
            for operation in cost.operations
            for made in (self._factors(operation, owner) if operation.weight == weight else (operation,))
        ]
        return replace(
            cost,
            operations=tuple(operations_after),
            tensors=tensors,
            parameters=_renamed(cost.parameters, names),
        )

    def outer_axes(self, graph: Graph) -> dict[tuple[str, int], tuple[str, int]]:
        """Axes of the two factors -> the axes of the layer that they are: its inputs and its outputs."""
        weight = graph.canonical(child(self.module, "weight"))
        owner = weight.rpartition(".")[0]
        return {
            (child(owner, "0.weight"), 1): (weight, 1),
            (child(owner, "1.weight"), 0): (weight, 0),
            (child(owner, "1.bias"), 0): (child(owner, "bias"), 0),
        }

    def check(self, shape: LayerShape) -> None:
        """Raises PlanError where a layer of this shape cannot be factorized so."""
        if shape.groups != 1:
            raise PlanError(f"{self}: the layer has {shape.groups} groups; only ungrouped layers can be factorized")
        if self.scheme == "spatial_svd" and len(shape.kernel) != 2:
            raise PlanError(f"{self}: spatial SVD needs a two-dimensional convolution; use weight_svd")
        if self.rank > max_rank(self.scheme, shape):
            raise PlanError(
                f"{self}: a weight of the shape {list(shape.weight)} has at most rank {max_rank(self.scheme, shape)}"
            )

    def _factors(self, operation: Operation, owner: str) -> tuple[Operation, Operation]:
        assert operation.shape is not None
        first, second = factor_shapes(self.scheme, operation.shape, self.rank)
        reached = first.output_size(operation.size)
        bias = None if operation.bias is None else child(owner, "1.bias")
        return (
            resized(operation, first, module=child(operation.module, "0"), weight=child(owner, "0.weight"), bias=None),
            resized(
                operation,
                second,
                module=child(operation.module, "1"),
                weight=child(owner, "1.weight"),
                bias=bias,
                size=reached,
            ),
        )


class AddBias(_Edit):
    """Give a convolution or linear without bias one of zeros."""

    edit: Literal["add_bias"] = "add_bias"

    def __str__(self) -> str:
        return f"add a bias to {self.module or '(model)'}"

    def reprice(self, cost: Cost, graph: Graph) -> Cost:
        """The cost of the model after this Edit.

        Raises:
            PlanError: there is no such layer, or it has a bias.
        """
        weight, operations = self._priced(cost, graph)
        shape = operations[0].shape
        assert shape is not None
        if operations[0].bias is not None:
            raise PlanError(f"{self}: it has one")
        bias = child(weight.rpartition(".")[0], "bias")
        return replace(
            cost,
            operations=tuple(replace(o, bias=bias) if o.weight == weight else o for o in cost.operations),
            tensors={**cost.tensors, bias: Spec((shape.outputs,), cost.tensors[weight].dtype)},
            parameters=cost.parameters | {bias},
        )


class Slice(BaseModel):
    """Keep only some indices of one axis of a parameter or buffer.

    A channel is cut by the Slices of all axes in its group together; one alone leaves a model that does not run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    edit: Literal["slice"] = "slice"
    # The tensor's name at this Edit's moment, and its axis.
    tensor: str
    axis: NonNegativeInt
    # The indices that stay, in increasing order.
    keep: tuple[NonNegativeInt, ...] = Field(min_length=1)

    @field_validator("keep")
    @classmethod
    def _increasing(cls, keep: tuple[int, ...]) -> tuple[int, ...]:
        if list(keep) != sorted(set(keep)):
            raise ValueError("the indices to keep must be in increasing order, each once")
        return keep

    def __str__(self) -> str:
        return f"keep {len(self.keep)} of axis {self.axis} of {self.tensor}"

    def shape(self, before: tuple[int, ...]) -> tuple[int, ...]:
        """The tensor's shape after this Edit.

        Raises:
            PlanError: the tensor has no such axis or index.
        """
        if self.axis >= len(before) or self.keep[-1] >= before[self.axis]:
            raise PlanError(f"{self}: it has the shape {list(before)}; was the plan made for another model?")
        return (*before[: self.axis], len(self.keep), *before[self.axis + 1 :])


class SetAttribute(_Edit):
    """Set a plain attribute of a module, such as the number of heads that its code reads."""

    edit: Literal["set_attribute"] = "set_attribute"
    # With a dot: the attribute of an object that the module holds, such as a configuration that other modules share;
    # the module gets a copy of it.
    name: str
    value: int | tuple[int, ...]

    def __str__(self) -> str:
        return f"set {child(self.module, self.name)} to {self.value}"


class ReplaceModule(_Edit):
    """Put gracile's own module, of the same parameters under the same names, where one cannot be cut.

    "multihead_attention" stands for torch's; "program" for any module whose code computes sizes that must change: the
    part of the captured program that its own code wrote, with the sizes as they must be.  "simulation" is the whole
    model as its captured program, for quantizers to be put into.
    """

    edit: Literal["replace_module"] = "replace_module"
    by: Literal["multihead_attention", "program", "simulation"]
    program: Program | None = None

    @model_validator(mode="after")
    def _has_program(self) -> Self:
        if (self.by != "multihead_attention") != (self.program is not None):
            raise ValueError("a program is given exactly where a module is replaced by one")
        return self

    def __str__(self) -> str:
        if self.program is not None:
            return f"replace {self.module or '(model)'} by its {self.by} of {len(self.program.steps)} steps"
        return f"replace {self.module or '(model)'} by gracile's {self.by}"


Edit = Annotated[
    Factorize | AddBias | Slice | SetAttribute | ReplaceModule | FoldBatchNorm | Quantize | ScaleChannels,
    Field(discriminator="edit"),
]


class Plan(BaseModel):
    """An ordered, immutable list of Edits; plans compare by value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = VERSION
    edits: tuple[Edit, ...] = ()

    def to_json(self) -> str:
        return self.model_dump_json(indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            PlanError: the text is not JSON, of another version, or holds an unknown or malformed Edit.
        """
        try:
            made = cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the text"
            raise PlanError(
                f"not a plan that this version of gracile reads (format {VERSION}): {where}: {first['msg']}"
            ) from error
        if "version" not in made.model_fields_set:
            raise PlanError(f"not a plan that this version of gracile reads (format {VERSION}): it names no version")
        return made

    def then(self, other: "Plan") -> "Plan":
        """The Edits of this plan, then those of the other."""
        if not isinstance(other, Plan):
            raise InputError(f"other is a {type(other).__name__}; give a gracile.Plan")
        return Plan(edits=self.edits + other.edits)

    def cost(self, graph: Graph) -> Cost:
        """The cost of the captured model after this plan, without touching a weight.

        Raises:
            PlanError: an Edit does not fit.
        """
        require_graph(graph)
        cost = price(graph)
        kept: _Kept = {}
        outer: dict[_Axis, _Axis] = {}
        for cutting, edits in groupby(
            self.edits, key=lambda edit: isinstance(edit, Slice | SetAttribute | ReplaceModule)
        ):
            if cutting:
                cost = _sliced(cost, graph, [edit for edit in edits if isinstance(edit, Slice)], kept, outer)
                continue
            for edit in edits:
                assert isinstance(edit, Factorize | AddBias | FoldBatchNorm | Quantize | ScaleChannels)
                cost = edit.reprice(cost, graph)
                if isinstance(edit, Factorize):
                    outer |= {made: outer.get(axis, axis) for made, axis in edit.outer_axes(graph).items()}
        return cost

    def check(self, graph: Graph) -> None:
        """Raises PlanError where an Edit does not fit the captured model."""
        self.cost(graph)

    def __len__(self) -> int:
        return len(self.edits)

    def __str__(self) -> str:
        if not self.edits:
            return "empty plan"
        return "\n".join(f"{number:>3}. {edit}" for number, edit in enumerate(self.edits, start=1))


_Axis: TypeAlias = tuple[str, int]
# (tensor, axis) -> the original's indices that are left.
_Kept: TypeAlias = dict[_Axis, tuple[int, ...]]


def _sliced(cost: Cost, graph: Graph, edits: Sequence[Slice], kept: _Kept, outer: Mapping[_Axis, _Axis]) -> Cost:
    """The cost after slices that together cut whole channels, and add to what was ``kept`` by those before.

    Axes of factors that were axes of the layer in their place, which the program shows, are told by ``outer``.

    Operations that the captured program shows, with the weights that it shows, are counted anew at the sizes that
    follow from its channels; layers that an earlier Edit made, at the sizes of their sliced weights.
    """
    if not edits:
        return cost
    tensors = dict(cost.tensors)
    for edit in edits:
        name = graph.canonical(edit.tensor)
        spec = tensors.get(name) or (graph.tensors[name] if name in graph.transient else None)
        if spec is None:
            raise PlanError(f"{edit}: the model has no parameter or buffer of that name")
        shape = edit.shape(spec.shape)
        if name in tensors:
            tensors[name] = Spec(shape, spec.dtype)
        axis = outer.get((name, edit.axis), (name, edit.axis))
        before = kept.get(axis)
        kept[axis] = tuple(before[i] for i in edit.keep) if before else edit.keep
    known = {axis: keep for axis, keep in kept.items() if axis[0] in graph.tensors}
    smaller = price(after_cutting(graph, known, frozenset(tensors) | graph.transient))
    counted = {operation.node: operation for operation in smaller.operations}
    operations = [_recounted(operation, counted, cost.tensors, tensors) for operation in cost.operations]
    return replace(cost, operations=tuple(operations), tensors=tensors)


def _recounted(
    operation: Operation,
    counted: Mapping[str, Operation],
    before: Mapping[str, Spec],
    after: Mapping[str, Spec],
) -> Operation:
    """``operation`` at its new sizes: from the program where it shows this very layer, else from its weight."""
    shown = counted.get(operation.node)
    if shown is not None and shown.weight == operation.weight:
        return shown
    if operation.weight is None or operation.shape is None or before[operation.weight] == after[operation.weight]:
        return operation
    outputs, inputs = after[operation.weight].shape[:2]
    return resized(operation, replace(operation.shape, outputs=outputs, inputs=inputs * operation.shape.groups))


def _renamed(names: frozenset[str], changes: Mapping[str, set[str]]) -> frozenset[str]:
    return frozenset().union(*(changes.get(name, {name}) for name in names))
