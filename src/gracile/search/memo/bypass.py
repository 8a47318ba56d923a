"""Which submodules of a program a change does not reach, and who reads their outputs."""

from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass
from functools import cached_property

import torch

from gracile.cost import price
from gracile.graph import Graph, Node, refs_in


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """A submodule that computes the same whatever the changed tensors are."""

    path: str
    # Parameters and buffers that its output depends on, those of what runs before it included.
    tensors: tuple[str, ...]
    # Whether code outside of all units reads its output; else only the units that come later do.
    read_outside: bool
    # Units whose outputs it reads.
    feeders: tuple[str, ...]
    # Of one call of the model.
    macs: int


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """The units of one program and one change, in the order of execution."""

    units: Mapping[str, Unit]
    # MACs of one call of the whole model.
    macs: int


class Program:
    """One captured program, and what is found in it for any change."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        cost = price(graph)
        self._macs = {operation.node: operation.macs for operation in cost.operations}
        self._total = sum(self._macs.values())

    @cached_property
    def random(self) -> bool:
        """Whether the program draws random numbers."""
        return any(_is_random(node) for node in self._graph.calls)

    def units(self, touched: Collection[str], refused: Collection[str]) -> Units:
        """The largest submodules that do not depend on the tensors ``touched``.

        Args:
            refused: paths of submodules that cannot be left out; what is in them can.
        """
        affected = self._affected(touched)
        chosen = {path for path in self._paths if self._fits(path, affected, refused)}
        largest = [path for path in self._paths if path in chosen and not chosen & set(_parents(path))]
        owner = {name: path for path in largest for name in self._inside[path]}
        results = {ref.name for ref in refs_in(self._graph.result)}
        found = [self._unit(path, owner, results) for path in largest]
        return Units({unit.path: unit for unit in found}, self._total)

    def _unit(self, path: str, owner: Mapping[str, str], results: Collection[str]) -> Unit:
        inside = self._inside[path]
        readers = {owner.get(user) for name in inside for user in self._graph.users[name] if user not in inside}
        sources = dict.fromkeys(ref for name in inside for ref in self._graph.nodes[name].refs if ref not in inside)
        return Unit(
            path=path,
            tensors=tuple(sorted({name for node in inside for name in self._sources[node]})),
            read_outside=None in readers or not inside.isdisjoint(results),
            feeders=tuple(dict.fromkeys(owner[ref] for ref in sources if ref in owner)),
            macs=sum(self._macs.get(name, 0) for name in inside),
        )

    def _fits(self, path: str, affected: Set[str], refused: Collection[str]) -> bool:
        inside = self._inside[path]
        # Of a module that is called several times every part that always runs is called several times.
        once = any(all(not self._graph.nodes[n].call for n in names) for names in self._by_module(inside))
        return bool(path) and path not in refused and once and not inside & affected

    def _by_module(self, inside: Iterable[str]) -> Iterable[list[str]]:
        groups: dict[str, list[str]] = {}
        for name in inside:
            groups.setdefault(self._graph.nodes[name].module, []).append(name)
        return groups.values()

    @cached_property
    def _inside(self) -> dict[str, set[str]]:
        """Module path -> the calls that it and what it contains run, in the order of their first calls."""
        found: dict[str, set[str]] = {}
        for node in self._graph.calls:
            for path in (*_parents(node.module), node.module):
                found.setdefault(path, set()).add(node.name)
        return found

    @cached_property
    def _paths(self) -> tuple[str, ...]:
        """Parents come before their parts, all in the order of execution."""
        return tuple(self._inside)

    @cached_property
    def _sources(self) -> dict[str, frozenset[str]]:
        """Node -> the parameters and buffers that its value depends on."""
        found: dict[str, frozenset[str]] = {}
        for node in self._graph.nodes.values():
            own = frozenset({node.op} if node.kind in ("parameter", "buffer") else ())
            found[node.name] = own.union(*(found[ref] for ref in node.refs))
        return found

    def _affected(self, touched: Collection[str]) -> set[str]:
        """The calls whose values may depend on the tensors ``touched``."""
        tensors = {self._graph.canonical(name) for name in touched}
        affected: set[str] = set()
        everything = False
        for node in self._graph.nodes.values():
            if node.kind in ("parameter", "buffer"):
                if node.op in tensors:
                    affected.add(node.name)
            elif node.kind == "call" and (everything or not affected.isdisjoint(node.refs)):
                affected.add(node.name)
                # What it writes into may be read by anything that comes later.
                everything = everything or self._writes_elsewhere(node, affected)
        return affected

    def _writes_elsewhere(self, node: Node, affected: Collection[str]) -> bool:
        """Whether an in-place operator writes what depends on the change into a value that did not."""
        if not node.op.startswith("aten.") or not node.op.split(".")[1].endswith("_"):
            return not node.op.startswith("aten.") and node.output is None
        return bool(node.refs) and node.refs[0] not in affected


def _parents(path: str) -> list[str]:
    """The paths above a module: of "a.b.c" they are "a" and "a.b"."""
    parts = path.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def _is_random(node: Node) -> bool:
    tags = getattr(node.target, "tags", ())
    if torch.Tag.nondeterministic_seeded not in tags:
        return False
    # The dropouts of a program in evaluation mode: (input, p, train).
    return not ("dropout" in node.op and False in node.args)
