"""A captured program in the form that quantizers are placed in: attention and SiLU written out, nothing in place."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch

from gracile.graph import Graph, Node, Ref, Spec, bare_name, users_of

_aten = torch.ops.aten
# They hold the example's precision, and compute nothing.
_CHECKS = {"aten._assert_tensor_metadata.default"}


def rewritten(graph: Graph) -> Graph:
    """The same program with scaled_dot_product_attention as its products and softmax, SiLU as x times sigmoid(x), and
    the plain forms of operators that write in place where nobody sees the difference.
    """
    nodes: dict[str, Node] = {}
    for node in graph.nodes.values():
        if node.op in _CHECKS and not graph.users[node.name]:
            continue
        if bare_name(node.op) == "scaled_dot_product_attention":
            nodes.update((made.name, made) for made in _Attention(graph, node).nodes())
        else:
            made = plain(graph, node)
            if bare_name(made.op) == "silu" and not made.op.startswith("aten.silu_"):
                nodes.update((part.name, part) for part in _silu(made))
            else:
                nodes[made.name] = made
    return replace(graph, nodes=MappingProxyType(nodes), users=users_of(nodes, graph.result))


def plain(graph: Graph, node: Node) -> Node:
    """The operator that returns a new tensor, where nothing else reads what this one overwrites."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or not node.args or not isinstance(node.args[0], Ref):
        return node
    name = target._schema.name.removeprefix("aten::")
    written = graph.nodes[node.args[0].name]
    alone = graph.users[written.name] == (node.name,) and written.kind == "call" and not _is_view(written)
    if not name.endswith("_") or name.endswith("__") or not alone:
        return node
    packet = getattr(_aten, name.removesuffix("_"), None)
    found = getattr(packet, target._overloadname, None)
    if found is None:
        return node
    return replace(node, op=str(found), target=found)


def _silu(node: Node) -> tuple[Node, Node]:
    """Two operators for x sigmoid(x): integer runtimes have a kernel for each of them, and none for SiLU."""
    target = _aten.sigmoid.default
    gate = replace(node, name=f"{node.name}_sigmoid", op=str(target), target=target, args=node.args[:1], kwargs={})
    product = _aten.mul.Tensor
    args = (node.args[0], Ref(gate.name))
    return gate, replace(node, op=str(product), target=product, args=args, kwargs={})


def _is_view(node: Node) -> bool:
    """Whether the value may share memory with an argument."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return True
    schema = node.target._schema
    may_alias = any(item.alias_info is not None for item in schema.returns)
    # These return their argument where nothing needs to be done.
    return may_alias or bare_name(node.op) in {"contiguous", "reshape", "flatten", "to", "dropout"}


class _Attention:
    """The nodes that stand for one scaled_dot_product_attention: softmax(q k^T * scale + mask) v."""

    def __init__(self, graph: Graph, node: Node) -> None:
        self._graph, self._node = graph, node
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        defaults: dict[str, Any] = {"attn_mask": None, "dropout_p": 0.0, "is_causal": False}
        defaults |= {"scale": None, "enable_gqa": False}
        self._given = defaults | dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
        self._made: list[Node] = []
        query = self._spec(self._given["query"])
        self._dtype = query.dtype
        self._scores = (*query.shape[:-1], self._spec(self._given["key"]).shape[-2])
        self._scale = query.shape[-1] ** -0.5 if self._given["scale"] is None else self._given["scale"]

    def nodes(self) -> Iterator[Node]:
        key, value = (self._repeated(self._given[name], name) for name in ("key", "value"))
        shape = self._spec(key).shape
        turned = self._add("key", _aten.transpose.int, (key, -2, -1), (*shape[:-2], shape[-1], shape[-2]))
        scores = self._add("scores", _aten.matmul.default, (self._given["query"], turned), self._scores)
        scores = self._add("scaled", _aten.mul.Tensor, (scores, self._scale), self._scores)
        weights = self._add("softmax", _aten.softmax.int, (self._masked(scores), -1), self._scores)
        weights = self._add("dropout", _aten.dropout.default, (weights, self._given["dropout_p"], True), self._scores)
        yield from self._made
        product = _aten.matmul.default
        yield replace(self._node, op=str(product), target=product, args=(weights, value), kwargs={})

    def _repeated(self, ref: Ref, name: str) -> Ref:
        """Keys or values for each query head, where several share one."""
        shape, heads = self._spec(ref).shape, self._scores[-3] if len(self._scores) > 2 else 1
        if not self._given["enable_gqa"] or shape[-3] == heads:
            return ref
        target = _aten.repeat_interleave.self_int
        sizes = (*shape[:-3], heads, *shape[-2:])
        return self._add(f"{name}_heads", target, (ref, heads // shape[-3], -3), sizes)

    def _masked(self, scores: Ref) -> Ref:
        mask = self._given["attn_mask"]
        # As good as minus infinity, and a row that is masked everywhere gives no NaN.
        lowest = torch.finfo(self._dtype).min
        if self._given["is_causal"]:
            square, flag = self._scores[-2:], torch.bool
            kept = self._add("ones", _aten.ones.default, (list(square),), square, flag, {"dtype": flag})
            kept = self._add("causal", _aten.tril.default, (kept,), square, flag)
            hidden = self._add("hidden", _aten.logical_not.default, (kept,), square, flag)
            return self._add("masked", _aten.masked_fill.Scalar, (scores, hidden, lowest), self._scores)
        if mask is None:
            return scores
        spec = self._spec(mask)
        if spec.dtype is torch.bool:
            hidden = self._add("hidden", _aten.logical_not.default, (mask,), spec.shape, torch.bool)
            return self._add("masked", _aten.masked_fill.Scalar, (scores, hidden, lowest), self._scores)
        return self._add("masked", _aten.add.Tensor, (scores, mask), self._scores)

    def _spec(self, ref: Ref) -> Spec:
        made = next((node for node in self._made if node.name == ref.name), None)
        spec = (made or self._graph.nodes[ref.name]).output
        assert isinstance(spec, Spec)
        return spec

    def _add(
        self,
        name: str,
        target: torch._ops.OpOverload,
        args: tuple[Any, ...],
        shape: tuple[int, ...],
        dtype: torch.dtype | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> Ref:
        where = self._node
        made = Node(
            name=f"{where.name}_{name}", kind="call", op=str(target), target=target, args=args, kwargs=kwargs or {},
            output=Spec(shape, dtype or self._dtype), module=where.module, call=where.call,
        )  # fmt: skip
        self._made.append(made)
        return Ref(made.name)
