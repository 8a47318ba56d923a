"""From channels to remove to a Plan that runs: sizes that are baked into Python code follow the cut.

Slices alone suffice where code reads sizes from tensors.  Elsewhere a ladder is climbed, each rung verified by
running the cut model and comparing it with its oracle: integer attributes that the code reads are patched, torch's
attention is replaced by gracile's, and what then still does not fit is not cut, with the reason.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gracile.attributes import knows
from gracile.channels import ChannelGroups, Demand, Difference, after_cutting, demands, same_program
from gracile.errors import GracileError, PlanError
from gracile.graph import Graph, capture, eval_mode
from gracile.inputs import Inputs
from gracile.oracle import EXACT, in_double, largest, largest_difference, oracle, outputs_of, tolerance_of
from gracile.plan import Edit, Plan, ReplaceModule, SetAttribute, Slice, child
from gracile.surgery import swapped

# The class of a module, an attribute, and the places of the literals that have its value: the operators, counted
# within the module, and their arguments.  Patched on all instances or none.
_Patch = tuple[type[nn.Module], str, frozenset[tuple[int, int]]]


@dataclass(frozen=True, slots=True)
class Cut:
    """A Plan that removes channels, and what it took."""

    plan: Plan
    # Difference from the zeroed original on the example inputs, relative to its largest output.
    error: float
    # Groups that were left whole because the model's code would not follow -> why.
    dropped: Mapping[str, str]

    @property
    def rungs(self) -> dict[str, int]:
        """How many Edits each rung of the ladder took, and how many groups were left whole."""
        attributes = sum(isinstance(edit, SetAttribute) for edit in self.plan.edits)
        replaced = sum(isinstance(edit, ReplaceModule) for edit in self.plan.edits)
        return {"attributes": attributes, "replaced": replaced, "dropped": len(self.dropped)}


@dataclass(frozen=True, slots=True)
class _Trial:
    # Difference from the oracle; infinite where the model did not run to its end.
    error: float
    # How many operators ran, where it stopped, and why.
    ran: int
    module: str
    problem: str


def cut(model: nn.Module, graph: Graph, groups: ChannelGroups, removed: Mapping[str, Iterable[int]]) -> Cut:
    """Plan to remove channels of ``model``, verified on the graph's example inputs.

    Args:
        graph: a capture of ``model``, which is left as it is.
        groups: the channel groups of ``graph``.
        removed: group name -> the channels to remove.

    Raises:
        InputError: a group or channel does not exist, or nothing would be left of an axis.
        PlanError: the cut model does not run or is wrong, and no group can be blamed.
    """
    left = {name: list(channels) for name, channels in removed.items()}
    dropped: dict[str, str] = {}
    while any(left.values()):
        kept = {axis: tuple(keep.tolist()) for axis, keep in groups.kept(left).items()}
        climb = _Climb(model, graph, groups, kept)
        plan, trial = climb.to_the_top()
        if trial.error <= climb.tolerance:
            return Cut(plan, trial.error, dropped)
        blamed, reason = climb.blamed(trial, plan)
        stubborn = [name for name in blamed if left.get(name)]
        if not stubborn:
            raise PlanError(f"the cut model does not equal the zeroed original: {reason}")
        for name in stubborn:
            dropped[name] = reason
            del left[name]
    return Cut(Plan(), 0.0, dropped)


class _Climb:
    """One set of slices, and the search for the Edits that make the model run with them."""

    def __init__(
        self, model: nn.Module, graph: Graph, groups: ChannelGroups, kept: dict[tuple[str, int], tuple[int, ...]]
    ) -> None:
        self._graph = graph
        self._groups = groups
        self._kept = kept
        self._demands = demands(graph, groups, kept)
        self._slices: list[Edit] = [Slice(tensor=name, axis=axis, keep=keep) for (name, axis), keep in kept.items()]
        self._model, self._inputs = in_double(model, graph.example)
        self._modules = dict(self._model.named_modules())
        plan = Plan(edits=tuple(self._slices))
        try:
            expected = oracle(self._model, graph, plan, self._inputs)
        except RuntimeError:
            # The program was captured in another precision, and has constants of it.
            wide = capture(self._model, self._inputs.kwargs or self._inputs.args)
            expected = oracle(self._model, wide, plan)
        self._expected = outputs_of(expected)
        self.tolerance = tolerance_of(graph, self._expected)

    def to_the_top(self) -> tuple[Plan, _Trial]:
        """The plan that came furthest, and how far that is."""
        base = [*self._replacements(), *self._slices]
        with swapped(self._model, base) as model:
            trial = self._trial(model, [])
        if trial.error <= self.tolerance:
            return self._confirmed(Plan(edits=tuple(base)), trial)
        # Read before the cut: the code has to run for that.
        patches = self._patches()
        with swapped(self._model, base) as model:
            chosen, trial = self._search(model, patches)
        edits = [edit for patch in chosen for edit in patches[patch]]
        return self._confirmed(Plan(edits=(*base, *edits)), trial)

    def _confirmed(self, plan: Plan, trial: _Trial) -> tuple[Plan, _Trial]:
        """Where rounding could hide a wrong cut, the program must also have the expected shapes."""
        if self.tolerance <= EXACT or trial.error > self.tolerance:
            return plan, trial
        difference = self._difference(plan)
        if difference is None:
            return plan, trial
        return plan, _Trial(float("inf"), trial.ran, difference.module, difference.text)

    def blamed(self, trial: _Trial, plan: Plan) -> tuple[list[str], str]:
        """The groups whose removal changes literals in the code that stopped the model, and what it said."""
        path, problem = trial.module, trial.problem
        if not problem:
            difference = self._difference(plan)
            path, problem = (difference.module, difference.text) if difference else ("", "its output is wrong")
        found: list[Demand] = []
        stopped = path
        while not found and path:
            kind = type(self._modules.get(path))
            found = [demand for demand in self._demands if type(self._modules.get(demand.module)) is kind]
            path = path.rpartition(".")[0]
        components = frozenset().union(*(demand.removed for demand in found or self._demands))
        names = [
            group.name for group in self._groups.groups if components & set(self._groups.component_of(group).tolist())
        ]
        return names, f"the code of {stopped or 'the model'} does not follow: {problem}"

    def _difference(self, plan: Plan) -> Difference | None:
        """Where the cut model's program is not what it should be."""
        try:
            with swapped(self._model, plan.edits) as model:
                small = capture(model, self._inputs.kwargs or self._inputs.args)
        except GracileError:
            return None
        if any(isinstance(edit, ReplaceModule) for edit in plan.edits):
            return None
        return same_program(after_cutting(self._graph, self._kept), small)

    def _replacements(self) -> list[Edit]:
        """Torch's attention modules that lose something, replaced."""
        edits: list[Edit] = []
        for path, module in self._modules.items():
            touched = any(name.rpartition(".")[0] in (path, child(path, "out_proj")) for name, _ in self._kept)
            if type(module) is nn.MultiheadAttention and touched:
                edits.append(ReplaceModule(module=path, by="multihead_attention"))
                keep = self._kept.get((child(path, "out_proj.weight"), 1))
                if keep is not None:
                    edits.append(SetAttribute(module=path, name="num_heads", value=len(keep) // module.head_dim))
        return edits

    def _patches(self) -> dict[_Patch, list[SetAttribute]]:
        """Attributes that are read where literals must change, with the values that the literals take."""
        replaced = {edit.module for edit in self._replacements() if isinstance(edit, ReplaceModule)}
        wanted = {demand.module for demand in self._demands if not knows(self._modules.get(demand.module))} - replaced
        read = _attributes_read(self._model, self._inputs, {path: self._modules[path] for path in wanted})
        found: dict[tuple[str, str], list[tuple[Any, tuple[int, int]]]] = {}
        ordinals = self._ordinals()
        for demand in self._demands:
            for name, value in read.get(demand.module, {}).items():
                for index, (before, after) in enumerate(demand.sizes):
                    changed = _followed(value, before, after)
                    if changed is not None:
                        found.setdefault((demand.module, name), []).append((changed, (ordinals[demand.node], index)))
        patches: dict[_Patch, list[SetAttribute]] = {}
        for (path, name), matches in found.items():
            values = [value for value, _ in matches]
            edit = SetAttribute(module=path, name=name, value=max(values, key=values.count))
            places = frozenset(place for _, place in matches)
            patches.setdefault((type(self._modules[path]), name, places), []).append(edit)
        return patches

    def _ordinals(self) -> dict[str, int]:
        """Each operator's place among those of its module's call."""
        counts: Counter[tuple[str, int]] = Counter()
        ordinals = {}
        for node in self._graph.calls:
            ordinals[node.name] = counts[node.module, node.call]
            counts[node.module, node.call] += 1
        return ordinals

    def _search(self, model: nn.Module, patches: dict[_Patch, list[SetAttribute]]) -> tuple[list[_Patch], _Trial]:
        """The fewest patches with which the model gets furthest, from none and from all of them."""
        chosen, best = self._improved(model, patches, [])
        if best.error > self.tolerance and patches:
            other, trial = self._improved(model, patches, list(patches))
            if self._better(trial, best):
                chosen, best = other, trial
        return chosen, best

    def _improved(
        self, model: nn.Module, patches: dict[_Patch, list[SetAttribute]], chosen: list[_Patch]
    ) -> tuple[list[_Patch], _Trial]:
        """Add or leave out one patch at a time for as long as that helps."""
        best = self._trial(model, [edit for patch in chosen for edit in patches[patch]])
        improved = True
        while improved:
            improved = False
            for patch in patches:
                other = [item for item in chosen if item != patch] if patch in chosen else [*chosen, patch]
                trial = self._trial(model, [edit for item in other for edit in patches[item]])
                fewer = len(other) < len(chosen) and not self._better(best, trial)
                if self._better(trial, best) or fewer:
                    chosen, best, improved = other, trial, True
        return chosen, best

    def _better(self, left: _Trial, right: _Trial) -> bool:
        fits = left.error <= self.tolerance, right.error <= self.tolerance
        if fits == (True, True):
            # Near the tolerance of single precision a wrong cut can still fit.
            return left.error < right.error / 10 and right.error > EXACT
        if fits != (False, False):
            return fits == (True, False)
        return left.ran > right.ran

    def _trial(self, model: nn.Module, edits: list[SetAttribute]) -> _Trial:
        """Run the cut model and compare it with the oracle."""
        with swapped(model, edits), eval_mode(model, fresh=True), torch.no_grad(), _watched(model) as watch:
            try:
                actual = outputs_of(self._inputs.call(model))
            except Exception as stop:
                # The user's code meets sizes that it does not expect: what it raises is its own affair.
                return _Trial(float("inf"), watch.ran, watch.inside, str(stop).partition("\n")[0][:200])
        error = largest_difference(actual, self._expected) / largest(self._expected)
        return _Trial(float("inf") if math.isnan(error) else error, watch.ran, "", "")


def _followed(value: Any, before: Any, after: Any) -> Any:
    """What an attribute becomes when a literal changes that is equal to it, a small multiple or a small part."""
    if value == before:
        return after
    if isinstance(value, tuple) or isinstance(before, tuple) or min(value, before) < 2:
        return None
    for factor in (2, 3, 4):
        if value == factor * before:
            return factor * after
        if before == factor * value and after % factor == 0:
            return after // factor
    return None


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """How far a forward pass came."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ran = 0
        self._stack: list[str] = []
        self.inside = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.ran += 1
        return result

    def enter(self, path: str, *_: Any) -> None:
        self._stack.append(path)
        self.inside = path

    def leave(self, *_: Any) -> None:
        self._stack.pop()
        self.inside = self._stack[-1] if self._stack else ""


@contextmanager
def _watched(model: nn.Module) -> Iterator[_Watch]:
    watch = _Watch()
    handles = [
        handle
        for path, module in model.named_modules()
        for handle in (
            module.register_forward_pre_hook(partial(watch.enter, path)),
            module.register_forward_hook(watch.leave),
        )
    ]
    try:
        with watch:
            yield watch
    finally:
        for handle in handles:
            handle.remove()


def _attributes_read(model: nn.Module, inputs: Inputs, modules: Mapping[str, nn.Module]) -> dict[str, dict[str, Any]]:
    """The integers, and sequences of them, that each module's code reads from itself on the example inputs."""
    read: dict[str, dict[str, Any]] = {path: {} for path in modules}
    classes = {path: type(module) for path, module in modules.items()}
    try:
        for path, module in modules.items():
            module.__class__ = _spying(classes[path], read[path])
        with eval_mode(model, fresh=True), torch.no_grad():
            inputs.call(model)
    finally:
        for path, module in modules.items():
            module.__class__ = classes[path]
    return read


def _spying(kind: type[nn.Module], read: dict[str, Any]) -> type[nn.Module]:
    def attribute(self: nn.Module, name: str) -> Any:
        value = kind.__getattribute__(self, name)
        if name in object.__getattribute__(self, "__dict__"):
            if isinstance(value, int) and not isinstance(value, bool):
                read[name] = value
            elif isinstance(value, tuple | list) and value and all(type(item) is int for item in value):
                read[name] = tuple(value)
        return value

    return type(kind.__name__, (kind,), {"__getattribute__": attribute})
