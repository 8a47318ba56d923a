"""Which layers must lose the same outputs: NNI's questions, answered by gracile's channel groups."""

from collections.abc import Iterable, Mapping
from math import lcm
from os import PathLike
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from gracile.channels import ChannelGroups, channel_groups
from gracile.compat.nni.common.rules import output_axis
from gracile.errors import InputError
from gracile.export.files import write_rows
from gracile.graph import Graph, bare_name, capture
from gracile.plan import child

# Modules that make channels of their own.
_LAYERS = (nn.Linear, nn.Embedding, _ConvNd)
_RESHAPES = frozenset({"view", "reshape", "flatten", "unflatten", "view_as", "reshape_as"})


class _Dependency:
    """Sets of module names, found in a captured model."""

    def __init__(self, model: nn.Module | None = None, dummy_input: Any = None, traced_model: Any = None) -> None:
        if not isinstance(model, nn.Module):
            raise InputError(f"model is a {type(model).__name__}; give a torch.nn.Module")
        if traced_model is None and dummy_input is None:
            raise InputError("give dummy_input, with which the model can be called")
        self.model = model
        self.graph: Graph = traced_model if isinstance(traced_model, Graph) else capture(model, dummy_input)
        self.groups: ChannelGroups = channel_groups(self.graph)
        self.layers = {name: module for name, module in model.named_modules() if isinstance(module, _LAYERS)}

    def _axis(self, module: nn.Module) -> int:
        return output_axis(module)

    @property
    def dependency_sets(self) -> list[set[str]]:
        """Layers that go together; each layer is in one set, alone where none goes with it."""
        owner = {name: {name} for name in self.layers}
        for names in self._together():
            joined = set().union(*(owner[name] for name in names))
            for name in joined:
                owner[name] = joined
        found: list[set[str]] = []
        for name in self.layers:
            if owner[name] not in found:
                found.append(owner[name])
        return found

    def _together(self) -> Iterable[list[str]]:
        """Layers of which one channel group cuts the axis that is asked about."""
        weights: dict[tuple[str, int], list[str]] = {}
        for name, module in self.layers.items():
            key = self.graph.canonical(child(name, "weight")), self._axis(module)
            weights.setdefault(key, []).append(name)
        for group in self.groups.groups:
            names = [name for member in group.members for name in weights.get((member.tensor, member.axis), ())]
            if names:
                yield names

    @property
    def dependency(self) -> Mapping[str, set[str]]:
        """Layer -> the set that it is in."""
        return {name: found for found in self.dependency_sets for name in found}

    def export(self, filepath: str | PathLike[str]) -> None:
        """Write the sets as a table with a row each: a number, and the names.

        Raises:
            FileError: the file cannot be written.
        """
        sets = [[f"Set {place}", *sorted(names)] for place, names in enumerate(self.dependency_sets, 1)]
        write_rows(filepath, [["Dependency Set", "Layers"], *sets])


class ChannelDependency(_Dependency):
    """Layers whose outputs are added, multiplied or otherwise joined channel by channel.

    Args:
        model: left as it is.
        dummy_input: with which it can be called.
        traced_model: a Graph of it, in place of ``dummy_input``.
        prune_type: "Filter"; batch-norms are in the same groups, and go with them.

    Raises:
        InputError: no model or no input is given.
        CaptureError: the model cannot be captured.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        dummy_input: Any = None,
        traced_model: Any = None,
        prune_type: str = "Filter",
    ) -> None:
        if prune_type not in ("Filter", "Batchnorm"):
            raise InputError(f"prune_type is {prune_type!r}; it is 'Filter' or 'Batchnorm'")
        super().__init__(model, dummy_input, traced_model)


class InputChannelDependency(_Dependency):
    """Layers that read the same channels."""

    def _axis(self, module: nn.Module) -> int:
        return 1 - output_axis(module)

    def _together(self) -> Iterable[list[str]]:
        # Depthwise and grouped convolutions read in equal runs, which their weight's axis 1 does not show.
        weights = {self.graph.canonical(child(name, "weight")): name for name in self.layers}
        readers: dict[str, list[str]] = {}
        for node in self.graph.calls:
            weight = self.graph.source(node.args[1]) if len(node.args) > 1 else None
            if weight in weights and node.args:
                readers.setdefault(str(node.args[0]), []).append(weights[weight])
        yield from readers.values()
        yield from super()._together()


class GroupDependency(_Dependency):
    """Into how many equal runs the outputs of each layer fall, each of which must lose the same positions.

    A grouped convolution cuts its own outputs, and those of the layers that it reads, into as many runs as it has
    groups.  A depthwise convolution asks for nothing.
    """

    @property
    def dependency(self) -> Mapping[str, int]:  # type: ignore[override]
        """Layer -> the number of runs, 1 where there are none."""
        found = {name: _groups(module) for name, module in self.layers.items()}
        sets = ChannelDependency(self.model, None, self.graph).dependency
        for name, module in self.layers.items():
            groups = _groups(module)
            if groups > 1:
                for writer in self._writers(name, groups):
                    found[writer] = lcm(found[writer], groups)
        return {name: lcm(*(found[other] for other in sets[name])) for name in found}

    def _writers(self, name: str, groups: int) -> list[str]:
        """Layers that write what the layer ``name`` reads."""
        axis = 0 if isinstance(self.layers[name], _ConvTransposeNd) else 1
        weight = self.graph.canonical(child(name, "weight"))
        cut = [
            group for group in self.groups.groups if any((m.tensor, m.axis) == (weight, axis) for m in group.members)
        ]
        members = {(member.tensor, member.axis) for group in cut for member in group.members}
        return [
            other
            for other, module in self.layers.items()
            if other != name and (self.graph.canonical(child(other, "weight")), output_axis(module)) in members
            and _outputs(module) % groups == 0
        ]  # fmt: skip

    @property
    def dependency_sets(self) -> list[dict[str, int]]:  # type: ignore[override]
        """Layer and number of runs, one at a time."""
        return [{name: groups} for name, groups in self.dependency.items()]

    def export(self, filepath: str | PathLike[str]) -> None:
        """Write a table with a row for each layer.

        Raises:
            FileError: the file cannot be written.
        """
        write_rows(filepath, [["Conv Layer Name", "Group"], *self.dependency.items()])


class ReshapeDependency(_Dependency):
    """Layers whose outputs a view or reshape takes apart or joins; gracile follows both, unless they are frozen."""

    def _together(self) -> Iterable[list[str]]:
        return self.dependency.values()  # type: ignore[return-value]

    @property
    def dependency_sets(self) -> list[set[str]]:
        return [set(names) for names in self.dependency.values()]

    @property
    def dependency(self) -> Mapping[str, set[str]]:
        """Reshaping step -> the nearest layers before it."""
        found = {node.name: self._before(node.name) for node in self.graph.calls if bare_name(node.op) in _RESHAPES}
        return {name: layers for name, layers in found.items() if layers}

    def _before(self, name: str) -> set[str]:
        weights = {self.graph.canonical(child(layer, "weight")): layer for layer in self.layers}
        found, waiting, seen = set(), [name], {name}
        while waiting:
            for source in self.graph.nodes[waiting.pop()].refs:
                node = self.graph.nodes[source]
                own = {weights[ref] for ref in (self.graph.nodes[item].op for item in node.refs) if ref in weights}
                found |= own
                if not own and source not in seen:
                    seen.add(source)
                    waiting.append(source)
        return found


def _groups(module: nn.Module) -> int:
    """The groups of a convolution; 1 of others and of depthwise ones."""
    groups = getattr(module, "groups", 1)
    return 1 if not isinstance(module, _ConvNd) or groups == module.in_channels else int(groups)


def _outputs(module: Any) -> int:
    return int(module.weight.shape[output_axis(module)]) * (
        module.groups if isinstance(module, _ConvTransposeNd) else 1
    )


def dependency_of(model: nn.Module, dummy_input: Any) -> tuple[dict[str, str], dict[str, int]]:
    """Layer -> an id of the set that it goes with, and the number of runs of its outputs.

    Layers that share channels but have different numbers of outputs, as before a concatenation, stay apart.
    """
    graph = dummy_input if isinstance(dummy_input, Graph) else capture(model, dummy_input)
    channels = ChannelDependency(model, None, graph)
    sizes = {name: _outputs(module) for name, module in channels.layers.items()}
    groups: dict[str, str] = {}
    for place, names in enumerate(channels.dependency_sets):
        if len({sizes[name] for name in names}) == 1:
            groups |= dict.fromkeys(names, f"dependency-{place}")
    return groups, dict(GroupDependency(model, None, graph).dependency)
