"""The programs of modules whose code computes what cannot be patched.

Each is captured alone, with the inputs that it gets in the model, and its operators are matched with those of the
whole program, which say what their literals become.  The whole program with twice the batch, and the module in training
mode, show which literals follow those.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gracile.channels import operator
from gracile.cutting.calls import Call, Calls, recorded
from gracile.errors import GracileError, PlanError
from gracile.graph import Graph, Node, Ref, Spec, capture, capture_training, refs_in
from gracile.inputs import Inputs
from gracile.plan import ReplaceModule, child
from gracile.program import (
    GETITEM,
    Constant,
    Program,
    Step,
    Where,
    by_batch,
    by_mode,
    encoded,
    reference,
    tensor_named,
)
from gracile.wide import hollow

log = logging.getLogger(__name__)

_LARGEST_CONSTANT = 4096


@dataclass(frozen=True, slots=True)
class _Item:
    """One step: an operator, or a call of a child with everything in it."""

    node: Node
    # The child's path from the module; None for an operator of the module's own.
    child: str | None
    inside: tuple[Node, ...]

    @property
    def kind(self) -> tuple[str | None, str]:
        return self.child, "" if self.child else self.node.op


@dataclass(frozen=True, slots=True)
class Parts:
    """A module's call, captured alone, and the same items elsewhere; None where they do not match."""

    alone: Graph
    items: tuple[_Item, ...]
    # In the program of the whole model: the nodes of the call.
    whole: tuple[_Item, ...]
    wide: tuple[_Item, ...] | None
    train: tuple[_Item, ...] | None
    # The input that shows the batch, its axis and size, and the size in ``wide``.
    growth: tuple[str, int, int, int] | None
    inputs: Mapping[str, Where]
    # The axes of the inputs that are larger in ``wide``.
    growing: frozenset[tuple[str, int]]


class Programs:
    """Extracts modules of one model, once each, and writes them out for a cut."""

    def __init__(self, model: nn.Module, inputs: Inputs, graph: Graph) -> None:
        self._model, self._graph = model, graph
        self._inputs = inputs
        self._parts: dict[str, Parts | None] = {}
        self._calls: Calls | None = None
        # The same with twice the batch; None where the model does not take it.
        self._wide: tuple[Calls, Graph] | None = None
        # Classes whose programs are the same in training.
        self._steady: set[type] = set()

    def extract(self, paths: Collection[str]) -> bool:
        """Extract these modules too; whether that gave a new one."""
        new = sorted(set(paths) - self._parts.keys() - {""})
        if new and self._calls is None:
            self._prepare()
        for path in new:
            try:
                self._parts[path] = self._extracted(path)
            except GracileError as error:
                log.info("%s gets no program: %s", path, error)
                self._parts[path] = None
        return any(self._parts[path] for path in new)

    def made(self, smaller: Graph) -> tuple[dict[str, ReplaceModule], tuple[str, ...]]:
        """All extracted modules with the literals that they have in ``smaller``, and notes for the user."""
        made, notes = {}, []
        for path, parts in self._parts.items():
            if parts is None:
                continue
            try:
                program = Writer(parts, smaller).program()
            except PlanError as error:
                log.info("%s gets no program: %s", path, error)
                continue
            made[path] = ReplaceModule(module=path, by="program", program=program)
            fixed = "the batch size apart" if program.batch else "the batch size included"
            notes.append(f"{path} runs as its captured program, for inputs shaped like the example's, {fixed}")
        return made, tuple(notes)

    def _prepare(self) -> None:
        """The calls of all modules, and the whole program with twice the batch."""
        self._calls = recorded(self._model, self._inputs)
        try:
            twice = self._inputs.repeated(2)
            calls = recorded(self._model, twice)
            with hollow(self._model):
                self._wide = calls, capture(self._model, twice, training=False)
        except Exception as error:
            # The user's code, with a batch that it may not take.
            log.info("the model does not take twice the batch: %s", error)

    def _extracted(self, path: str) -> Parts:
        assert self._calls is not None
        if len(self._calls[path]) != 1:
            raise PlanError("it is not called once")
        call = self._calls[path][0]
        with hollow(self._model):
            alone = capture(self._model.get_submodule(path), call.inputs, training=False)
        leaves = _leaves(path, alone, self._calls)
        items = items_of(list(alone.calls), "", leaves)
        whole = alike(items, self._graph, path, leaves)
        if whole is None:
            raise PlanError("captured alone it runs other operators")
        wide, growing = None, list[tuple[str, int, int, int]]()
        if self._wide is not None and len(self._wide[0][path]) == 1:
            wide = alike(items, self._wide[1], path, leaves)
            growing = growing_inputs(alone, call, self._wide[0][path][0]) if wide else []
        return Parts(
            alone=alone,
            items=items,
            whole=whole,
            wide=wide,
            train=self._training(path, call, items, leaves),
            growth=growing[0] if growing else None,
            inputs=places_of(alone, call),
            growing=frozenset((name, axis) for name, axis, *_ in growing),
        )

    def _training(self, path: str, call: Call, items: Sequence[_Item], leaves: set[str]) -> tuple[_Item, ...] | None:
        """The same items in training mode; not looked for where another module of the class does the same in both."""
        module = self._model.get_submodule(path)
        if type(module) in self._steady:
            return None
        with hollow(self._model):
            graph = capture_training(module, call.inputs)
        found = None if graph is None else alike(items, graph, "", leaves)
        pairs = () if found is None else zip(items, found, strict=True)
        if found is not None and all(left.node.args == right.node.args for left, right in pairs):
            self._steady.add(type(module))
        return found


def alike(items: Sequence[_Item], graph: Graph, path: str, leaves: set[str]) -> tuple[_Item, ...] | None:
    """The same items in the program of the whole model; None where it has others."""
    inside = [node for node in graph.calls if not path or f"{node.module}.".startswith(f"{path}.")]
    found = items_of(inside, path, leaves)
    return found if [item.kind for item in found] == [item.kind for item in items] else None


def growing_inputs(alone: Graph, call: Call, other: Call) -> list[tuple[str, int, int, int]]:
    """The inputs and axes that are larger with twice the batch, and both sizes."""
    names = [node.name for node in alone.nodes.values() if node.kind == "input"]
    pairs = zip(names, pytree.tree_leaves(_structure(call)), pytree.tree_leaves(_structure(other)), strict=True)
    return [
        (name, axis, size, right.shape[axis])
        for name, left, right in pairs
        for axis, size in enumerate(left.shape if isinstance(left, Tensor) else ())
        if right.shape[axis] != size
    ]


def _structure(call: Call) -> Any:
    return call.inputs.args, call.inputs.kwargs


def _leaves(path: str, alone: Graph, calls: Calls) -> set[str]:
    """The children that can be called as they are: one tensor in, one out, and nothing inside that is called itself."""
    paths = {node.module for node in alone.calls} - {""}
    innermost = {name for name in paths if not any(other.startswith(f"{name}.") for other in paths)}
    plain = {name for name in innermost if calls[child(path, name)] and all(c.plain for c in calls[child(path, name)])}
    return {name for name in plain if _is_closed(name, alone)}


def _is_closed(name: str, alone: Graph) -> bool:
    """Whether every call of the child takes one value of the program and gives one."""
    order = list(alone.calls)
    for item in items_of(order, "", {name}):
        if item.child is None:
            continue
        inside = {node.name for node in item.inside}
        taken = {
            ref
            for node in item.inside
            for ref in node.refs
            if ref not in inside and alone.nodes[ref].kind in ("call", "input")
        }
        given = {ref for node in order if node.name not in inside for ref in node.refs if ref in inside}
        given |= {ref.name for ref in refs_in(alone.result) if ref.name in inside}
        if len(taken) != 1 or not given <= {item.inside[-1].name}:
            return False
    return True


def items_of(nodes: Sequence[Node], path: str, leaves: set[str]) -> tuple[_Item, ...]:
    """Operators, with those of a leaf's call gathered."""
    items: list[_Item] = []
    last = None
    for node in nodes:
        inner = node.module.removeprefix(path).removeprefix(".")
        call = (inner, node.call)
        if inner not in leaves:
            items.append(_Item(node, None, ()))
        elif last == call:
            items[-1] = _Item(node, inner, (*items[-1].inside, node))
        else:
            items.append(_Item(node, inner, (node,)))
        last = call
    return tuple(items)


def places_of(alone: Graph, call: Call) -> dict[str, Where]:
    """Where the inputs that the program uses stand in the call.

    Raises:
        PlanError: inside of something that is no tuple, list or dictionary.
    """
    names = [node.name for node in alone.nodes.values() if node.kind == "input"]
    found: dict[str, Where] = {}
    leaves, _ = pytree.tree_flatten_with_path(_structure(call))
    for name, (keys, value) in zip(names, leaves, strict=True):
        if isinstance(value, Tensor):
            where = [getattr(key, "idx", getattr(key, "key", None)) for key in keys[1:]]
            found[name] = tuple(key for key in where if isinstance(key, int | str))
            if len(found[name]) != len(where):
                raise PlanError(f"its input {keys} stands in an object of its own")
    return found


class Writer:
    """Writes one module's program for one cut."""

    def __init__(self, parts: Parts, smaller: Graph) -> None:
        self._parts, self._smaller = parts, smaller
        # What each node of the module's own capture is called in the program.
        self._names: dict[str, str] = {}
        self._constants: dict[str, Constant] = {}
        self._shapes: dict[str, tuple[int | None, ...]] = {}

    def program(self) -> Program:
        """Raises PlanError where something cannot be written down."""
        parts = self._parts
        steps = [self._step(index, item) for index, item in enumerate(parts.items)]
        result = self._encoded(parts.alone.result)
        growth = parts.growth
        return Program(
            inputs=dict(parts.inputs),
            shapes=self._shapes,
            constants=self._constants,
            steps=tuple(steps),
            result=result,
            batch=None if growth is None else growth[:3],
        )

    def _step(self, index: int, item: _Item) -> Step:
        if item.child is not None:
            inside = {node.name for node in item.inside}
            refs = [ref for node in item.inside for ref in node.refs if ref not in inside]
            taken = next(ref for ref in refs if self._parts.alone.nodes[ref].kind in ("call", "input"))
            for node, other in zip(item.inside, self._parts.whole[index].inside, strict=False):
                self._note_shapes(node, other)
            return Step(name=item.node.name, child=item.child, args=(self._value(taken),))
        node = item.node
        old = self._parts.whole[index].node
        self._note_shapes(node, old)
        new = self._smaller.nodes[old.name]
        wide = self._parts.wide[index].node if self._parts.wide else None
        train = self._parts.train[index].node if self._parts.train else None
        if operator(node) == GETITEM:
            return Step(name=node.name, op=GETITEM, args=(self._value(node.args[0].name), node.args[1]))
        if not isinstance(node.target, torch._ops.OpOverload):
            raise PlanError(f"{node.op} is no operator of torch's")
        versions = [item and item.args for item in (node, old, new, wide, train)]
        args = [self._merged(*self._at(versions, place)) for place in range(len(node.args))]
        named = [item and dict(item.kwargs) for item in (node, old, new, wide, train)]
        kwargs = {key: self._merged(*(item and item[key] for item in named)) for key in node.kwargs}
        if operator(node) == "dropout" and train is None:
            args[2] = by_mode(False, True)
        return Step(name=node.name, op=node.op, args=tuple(args), kwargs=kwargs)

    def _note_shapes(self, node: Node, old: Node) -> None:
        """The shapes that the inputs among a node's arguments have after the cut, as the whole program shows them."""
        for own, other in zip(node.refs, old.refs, strict=True):
            output = self._smaller.nodes[other].output
            if own in self._parts.inputs and isinstance(output, Spec):
                growing = {axis for name, axis in self._parts.growing if name == own}
                self._shapes[own] = tuple(None if axis in growing else size for axis, size in enumerate(output.shape))

    @staticmethod
    def _at(versions: Sequence[Any], place: int) -> list[Any]:
        return [None if version is None else version[place] for version in versions]

    def _merged(self, own: Any, old: Any, new: Any, wide: Any, train: Any) -> Any:
        """One argument: as in the module's capture, with what the cut, the batch and the mode change."""
        if isinstance(own, Ref):
            return self._value(own.name)
        if isinstance(own, list | tuple):
            versions = (own, old, new, wide, train)
            if any(item is not None and len(item) != len(own) for item in versions):
                raise PlanError("the lists in its arguments have several lengths")
            items = [self._merged(*self._at(versions, place)) for place in range(len(own))]
            return items if isinstance(own, list) else {"tuple": items}
        if isinstance(own, torch.dtype) and own != old:
            # The whole program was captured in another precision than the module: it follows the model's.
            return {"dtype": "input"}
        if isinstance(own, bool | float) and train is not None and train != own:
            return by_mode(own, train)
        if isinstance(own, int) and not isinstance(own, bool):
            return self._size(own, old, new, wide)
        if isinstance(own, float) and wide is not None and wide != own:
            raise PlanError("a number in it depends on the batch")
        return encoded(own)

    def _size(self, own: int, old: Any, new: Any, wide: Any) -> Any:
        if old not in (new, own):
            raise PlanError(f"{own} stands where the whole program has {old}")
        size = new if new != old else own
        if wide is None or wide == own:
            return size
        growth = self._parts.growth
        if growth is None or own * growth[3] != wide * growth[2]:
            raise PlanError(f"{own} becomes {wide} with twice the batch")
        return by_batch(size)

    def _value(self, name: str) -> Any:
        node = self._parts.alone.nodes[name]
        if node.kind in ("parameter", "buffer"):
            return tensor_named(node.op)
        if node.kind == "constant":
            self._constants.setdefault(name, _written(self._parts.alone.constants[name]))
        return reference(name)

    def _encoded(self, result: Any) -> Any:
        if isinstance(result, Ref):
            return self._value(result.name)
        if type(result) in (list, tuple):
            items = [self._encoded(item) for item in result]
            return items if isinstance(result, list) else {"tuple": items}
        if type(result) is dict:
            return {"dict": {key: self._encoded(item) for key, item in result.items()}}
        if isinstance(result, Mapping) and all(isinstance(key, str) for key in result):
            return {"named": {key: self._encoded(item) for key, item in result.items()}}
        return encoded(result)


def _written(tensor: Tensor) -> Constant:
    if tensor.numel() > _LARGEST_CONSTANT:
        raise PlanError(f"its code holds a tensor of {tensor.numel()} elements; make it a buffer")
    values = tensor.detach().flatten().tolist()
    return Constant(
        dtype=str(tensor.dtype).removeprefix("torch."), shape=tuple(tensor.shape), values=tuple(map(encoded, values))
    )
