"""Where quantizers go: the rules that integer runtimes follow, on a captured program.

A product (convolution, linear layer, matrix product) runs as integers if its factors and its result are quantized, with
its bias added in 32 bits and a ReLU or clamp behind it folded into the bounds of the result: so the quantizer stands
behind the activation.  What only moves values (views, max pooling, dropout) keeps their scale, and what joins them
(concatenation) makes them share one.  The other operators that runtimes know get a quantizer at their result.
Normalisations that are written out, sums that only a layer norm or GELU reads, and what stands between the scores of
attention and its softmax, stay in floating point, and so does whatever is unknown.  What of this reads the result of a
layer norm or GELU reads it unrounded, past the quantizer that it may have for others.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from gracile.errors import InputError
from gracile.graph import Graph, Node, Ref, Spec, bare_name, require_graph
from gracile.maths.fake_quant import scale_shape
from gracile.maths.quant_spec import PerBlock, PerChannel, PerTensor, QuantSpec
from gracile.quant import operators as ops
from gracile.quant.formats import Formats
from gracile.quant_edits import Quantize


@dataclass(frozen=True, slots=True, kw_only=True)
class Bias:
    """A bias, which integer runtimes hold in 32 bits with the scale of its data times that of its weight."""

    tensor: str
    # The product's node.
    node: str
    # Quantizers' names.
    data: str
    weight: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Quantizers for one program."""

    edits: tuple[Quantize, ...]
    biases: tuple[Bias, ...]
    # Every value that lies on the levels of a quantizer, by its node -> the quantizer's name.
    levels: Mapping[str, str]
    # Operators that stay in floating point, by their node -> why.
    left: Mapping[str, str]
    # Patterns that match nothing.
    unmatched: tuple[str, ...]


@dataclass(slots=True)
class _Weight:
    spec: QuantSpec
    shape: tuple[int, ...]


def place(graph: Graph, formats: Formats) -> Placement:
    """Choose the quantizers of ``graph``, which `rewritten` made.

    Raises:
        InputError: a format does not fit a tensor.
    """
    require_graph(graph)
    if not isinstance(formats, Formats):
        raise InputError(f"formats is a {type(formats).__name__}; give gracile.quant.Formats('int8', 'uint8')")
    return _Placer(graph, formats).placed()


@dataclass(slots=True)
class _Placer:
    graph: Graph
    formats: Formats
    # Values with a quantizer of their own, in order -> its spec.
    sites: dict[str, QuantSpec] = field(default_factory=dict)
    weights: dict[str, _Weight] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    # Values that depend on floating-point inputs or parameters.
    live: set[str] = field(default_factory=set)
    # Results that only a layer norm or GELU reads in the end.
    real: set[str] = field(default_factory=set)
    # Views and scalings of the real result of a layer norm or GELU, which nothing reads as integers.
    unrounded: set[str] = field(default_factory=set)
    # Union-find over values that share levels.
    parents: dict[str, str] = field(default_factory=dict)

    def placed(self) -> Placement:
        self._find_live()
        self._find_real()
        self._find_unrounded()
        floating = self._before_softmax()
        for node in self.graph.calls:
            if node.name not in self.live:
                continue
            if node.name in floating:
                self.left[node.name] = "it stands between scores and softmax"
            elif not self.formats.includes(node):
                self.left[node.name] = "it is excluded"
            else:
                self._visit(node)
        return self._gathered()

    def _find_live(self) -> None:
        for node in self.graph.nodes.values():
            floats = isinstance(node.output, Spec) and node.output.dtype.is_floating_point
            if node.kind in ("input", "parameter"):
                alive = floats
            elif node.kind == "call":
                several = isinstance(node.output, tuple)
                alive = (floats or several) and any(name in self.live for name in node.refs)
            else:
                alive = False
            if alive:
                self.live.add(node.name)

    def _find_real(self) -> None:
        """Sums, and the linear layers in front of them, that nothing but a layer norm or GELU reads.

        Runtimes run these on reals, and have integer kernels of linear layers with real results, so that rounding
        here would save nothing; and it is here that transformers have outliers a hundred times as large as the rest.
        """
        for node in reversed([*self.graph.calls]):
            users = [self.graph.nodes.get(name) for name in self.graph.users[node.name]]
            if (
                users
                and (ops.passes(node) or bare_name(node.op) in ops.SUMMED)
                and all(
                    user is not None
                    and (
                        (bare_name(user.op) in ops.ON_REALS and user.args[0] == Ref(node.name))
                        or (user.name in self.real and bare_name(user.op) not in ops.PRODUCTS)
                    )
                    for user in users
                )
            ):
                self.real.add(node.name)

    def _find_unrounded(self) -> None:
        for node in self.graph.calls:
            if self._is_real(node) or node.name in self.unrounded:
                users = [self._node(name) for name in self._users(node)]
                self.unrounded.update(user.name for user in users if self._carries(user) and self._on_reals(user, node))

    def _on_reals(self, user: Node, value: Node) -> bool:
        """Whether ``user``, and all that reads it if it only hands the value on, runs on reals where ``value`` is real.

        Runtimes keep reals, so that the rounded value would gain such a reader nothing.
        """
        name = bare_name(user.op)
        if name in ops.ON_REALS:
            return bool(user.args[0] == Ref(value.name))
        if user.name in self.real and name not in ops.PRODUCTS:
            return True
        if self._carries(user):
            return all(self._on_reals(self._node(each), user) for each in self._users(user))
        return not ops.passes(user) and name not in ops.KNOWN

    def _carries(self, node: Node) -> bool:
        """Whether it is a view, or is an operation with a number or a mask, which runtimes have no integers of."""
        live = [ref for ref in ops.tensors_in(node.args) if ref.name in self.live]
        return len(live) == 1 and (ops.passes(node) or bare_name(node.op) in ops.ELEMENTWISE)

    def _past(self, node: Node) -> list[str]:
        """Who reads the value of a layer norm or GELU as it is."""
        if not self._is_real(node):
            return []
        return [
            name for name in self.graph.users[node.name]
            if name == "output" or self._on_reals(self._node(name), node)
        ]  # fmt: skip

    def _before_softmax(self) -> set[str]:
        """Nodes between the scores of attention and the softmax."""
        found: set[str] = set()
        waiting = [ref for node in self.graph.calls if bare_name(node.op) == "softmax" for ref in [node.args[0]]]
        while waiting:
            node = self.graph.nodes[waiting.pop().name]
            if bare_name(node.op) in ops.BEFORE_SOFTMAX and len(self.graph.users[node.name]) == 1:
                found.add(node.name)
                waiting.extend(ops.tensors_in(node.args))
        return found

    def _visit(self, node: Node) -> None:
        name = bare_name(node.op)
        if ops.passes(node):
            self._pass(node)
        elif name in ops.JOINS:
            self._join(node)
        elif name == "embedding":
            self._embed(node)
        elif name in ops.PRODUCTS:
            self._product(node)
        elif name in ops.ELEMENTWISE:
            self._elementwise(node)
        elif name == "mean":
            self._mean(node)
        elif name in ops.UNARY:
            self._need_input(node.args[0])
            self._result(node)
        else:
            self.left[node.name] = ops.NOT_RECURRENT if name in ops.RECURRENT else f"no rule for {node.op}"

    # What each kind of operator asks for.

    def _pass(self, node: Node) -> None:
        source = node.args[0]
        if isinstance(source, Ref) and source.name in self.live and node.name not in self.unrounded:
            self._union(node.name, source.name)

    def _join(self, node: Node) -> None:
        parts = [ref for ref in ops.tensors_in(node.args) if ref.name in self.live]
        for ref in parts:
            self._need(ref, node)
            self._union(node.name, ref.name)

    def _embed(self, node: Node) -> None:
        table = self._source(node.args[0])
        if table is not None:
            # One scale: looking a row up and scaling it can then change places.
            self._weigh(table, self.formats.weights(node), None, None)

    def _product(self, node: Node) -> None:
        data, *others = ops.factors(node)
        self._need(data, node)
        for ref in others:
            source = self._source(ref)
            if source is None:
                self._need(ref, node)
                continue
            spec = self.graph.nodes[ref.name].output
            axes = ops.channel_axes(node, len(spec.shape)) if isinstance(spec, Spec) else None
            outputs, inputs = (self._axis_of_source(ref, axis) for axis in axes or (None, None))
            self._weigh(source, self.formats.weights(node), outputs, inputs)
        self._result(node)

    def _elementwise(self, node: Node) -> None:
        if node.name in self.unrounded:
            self.left[node.name] = "it reads and gives out reals"
            return
        refs = [ref for ref in ops.tensors_in(node.args) if ref.name in self.live]
        real = node.name in self.real
        for ref in refs if not real else ():
            self._need_input(ref)
        if not real and not any(self._on_levels(ref.name) for ref in refs):
            self.left[node.name] = "none of its operands is quantized"
            return
        for ref in refs:
            source = self._source(ref)
            # A table that is added is read by an addition of the activations' integers.
            spec = self.formats.activations(node)
            if source is not None and spec is not None and source not in self.weights:
                self._weigh(source, spec, None, None)
        self._result(node)

    def _mean(self, node: Node) -> None:
        source = self.graph.nodes[node.args[0].name]
        squares = bare_name(source.op) in ("pow", "square") or len(set(source.refs)) < len(source.refs)
        centres = any(bare_name(self._node(user).op) in ("sub", "rsub") for user in self._users(node))
        if squares or centres or not self._on_levels(source.name):
            self.left[node.name] = "it is part of a normalisation, or its operand is not quantized"
        else:
            self._result(node)

    # Sites.

    def _result(self, node: Node) -> None:
        """A quantizer at a node's value, unless a rectifier takes it all."""
        spec = self.formats.activations(node)
        if spec is None or not isinstance(node.output, Spec):
            return
        if node.name in self.real:
            if bare_name(node.op) not in ops.PRODUCTS:
                self.left[node.name] = "only a layer norm or GELU reads it, which runs on reals"
            return
        users = self.graph.users[node.name]
        if users and len(self._past(node)) == len(users):
            self.left[node.name] = "nothing reads it as integers"
            return
        following = self.graph.nodes.get(users[0]) if len(users) == 1 else None
        fused = (
            following is not None
            and ops.rectifies(following)
            and not ops.rectifies(node)
            and self.formats.includes(following)
            and self.formats.activations(following) is not None
        )
        if not fused:
            self.sites.setdefault(self._behind_dropout(node).name, spec)

    def _behind_dropout(self, node: Node) -> Node:
        """The dropout that alone reads the result of a layer norm or GELU, so that its readers can read past a
        quantizer; else the node.
        """
        users = self.graph.users[node.name]
        following = self.graph.nodes.get(users[0]) if len(users) == 1 else None
        drops = following is not None and bare_name(following.op) == "dropout" and self.formats.includes(following)
        return following if drops and following is not None and bare_name(node.op) in ops.ON_REALS else node

    def _is_real(self, node: Node) -> bool:
        """Whether it is a layer norm or GELU, or the dropout behind one."""
        if node.kind != "call" or bare_name(node.op) in ops.ON_REALS:
            return node.kind == "call"
        return bare_name(node.op) == "dropout" and self._behind_dropout(self._node(node.args[0].name)) is node

    def _need(self, ref: Ref, reader: Node) -> None:
        """A quantizer where ``ref`` comes from, unless it lies on levels already."""
        if ref.name not in self.live or self._on_levels(ref.name):
            return
        root = self._root(ref)
        if root.kind == "input":
            spec = self.formats.of_input(root, reader)
        else:
            spec = self.formats.activations(root if root.kind == "call" else reader)
        if spec is None:
            return
        if root.kind in ("parameter", "buffer"):
            if self._source(ref) is not None and root.op not in self.weights:
                self._weigh(root.op, spec, None, None)
        elif isinstance(root.output, Spec) and self.formats.includes(root):
            self.sites.setdefault(root.name, spec)

    def _need_input(self, ref: Ref) -> None:
        if isinstance(ref, Ref) and self._root(ref).kind == "input":
            self._need(ref, self._root(ref))

    def _weigh(self, tensor: str, spec: QuantSpec | None, outputs: int | None, inputs: int | None) -> None:
        """A quantizer at a parameter, its scales along the given axes of it."""
        if spec is None:
            return
        grain = spec.granularity
        if isinstance(grain, PerChannel):
            grain = PerTensor() if outputs is None else PerChannel(axis=outputs)
        elif isinstance(grain, PerBlock) and inputs is not None:
            grain = PerBlock(axis=inputs, size=grain.size)
        before = self.weights.get(tensor)
        if before is not None and before.spec.granularity != grain:
            # Read along different axes.
            grain = PerTensor()
        fitted = spec.model_copy(update={"granularity": grain})
        self.weights[tensor] = _Weight(fitted, scale_shape(fitted, self.graph.tensors[tensor].shape))

    # Reading the graph.

    def _node(self, name: str) -> Node:
        return self.graph.nodes[name]

    def _users(self, node: Node) -> list[str]:
        return [name for name in self.graph.users[node.name] if name != "output"]

    def _root(self, ref: Ref) -> Node:
        """The node that made the values which ``ref`` shows."""
        node = self._node(ref.name)
        while node.kind == "call" and ops.passes(node) and isinstance(node.args[0], Ref):
            node = self._node(node.args[0].name)
        return node

    def _source(self, ref: Ref) -> str | None:
        """The parameter that ``ref`` shows, moved about at most."""
        root = self._root(ref)
        return root.op if root.kind == "parameter" and self.graph.tensors[root.op].dtype.is_floating_point else None

    def _axis_of_source(self, ref: Ref, axis: int | None) -> int | None:
        node = self._node(ref.name)
        while node.kind == "call" and axis is not None:
            axis = ops.axis_before(node, axis, self.graph)
            node = self._node(node.args[0].name)
        return axis

    def _on_levels(self, name: str) -> bool:
        node = self._node(name)
        if name in self.sites:
            return True
        if node.kind == "parameter":
            return node.op in self.weights
        if node.kind != "call" or name in self.unrounded:
            return False
        if ops.passes(node) and isinstance(node.args[0], Ref):
            return self._on_levels(node.args[0].name)
        if bare_name(node.op) == "embedding":
            return self._source(node.args[0]) in self.weights
        if bare_name(node.op) in ops.JOINS:
            return all(self._on_levels(ref.name) for ref in ops.tensors_in(node.args) if ref.name in self.live)
        return False

    # Groups.

    def _find(self, name: str) -> str:
        while (parent := self.parents.get(name, name)) != name:
            self.parents[name] = self.parents.get(parent, parent)
            name = parent
        return name

    def _union(self, first: str, second: str) -> None:
        self.parents[self._find(first)] = self._find(second)

    def _gathered(self) -> Placement:
        groups: dict[str, list[str]] = defaultdict(list)
        for name in self.sites:
            groups[self._find(name)].append(name)
        names = _Names()
        edits = [
            Quantize(
                name=names.new(tensor), role="weight", sites=(tensor,), spec=weight.spec, shape=weight.shape,
            )
            for tensor, weight in self.weights.items()
        ]  # fmt: skip
        quantizer: dict[str, str] = {}
        for root, members in groups.items():
            first = self._node(members[0])
            quantizer[root] = names.new(
                first.op if first.kind == "input" else f"{first.module}.{bare_name(first.op)}".removeprefix(".")
            )
            spec = self.sites[members[0]]
            shape = scale_shape(spec, first.output.shape)
            past = dict.fromkeys(name for member in members for name in self._past(self._node(member)))
            edits.append(
                Quantize(
                    name=quantizer[root], role="activation", sites=tuple(members), spec=spec, shape=shape,
                    past=tuple(past),
                )
            )  # fmt: skip
        of_tensor = {edit.sites[0]: edit.name for edit in edits if edit.role == "weight"}
        levels = {node.name: of_tensor[node.op] for node in self.graph.nodes.values()
                  if node.kind == "parameter" and node.op in of_tensor}  # fmt: skip
        for node in self.graph.calls:
            if bare_name(node.op) == "embedding" and (table := self._source(node.args[0])) in of_tensor:
                levels[node.name] = of_tensor[str(table)]
        for node in self.graph.nodes.values():
            root = self._find(node.name)
            if self._on_levels(node.name):
                if root in quantizer:
                    levels[node.name] = quantizer[root]
                elif (
                    node.kind == "call" and ops.passes(node) and (found := levels.get(self._root(Ref(node.name)).name))
                ):
                    levels[node.name] = found
        return Placement(
            edits=tuple(edits), biases=self._biases(levels), levels=levels, left=self.left,
            unmatched=self.formats.unmatched(self.graph),
        )  # fmt: skip

    def _biases(self, levels: Mapping[str, str]) -> tuple[Bias, ...]:
        found = []
        for node in self.graph.calls:
            if bare_name(node.op) not in ops.PRODUCTS:
                continue
            bias, names = ops.bias_of(node), [levels.get(ref.name) for ref in ops.factors(node)]
            source = None if bias is None else self._source(bias)
            if source is not None and len(names) == 2 and names[0] and names[1]:
                found.append(Bias(tensor=source, node=node.name, data=names[0], weight=names[1]))
        return tuple(found)


class _Names:
    """Module names for quantizers, each once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def new(self, wanted: str) -> str:
        plain = re.sub(r"\W", "_", wanted)
        name, count = plain, 1
        while name in self._taken or hasattr(torch.nn.ModuleDict, name):
            count += 1
            name = f"{plain}_{count}"
        self._taken.add(name)
        return name
