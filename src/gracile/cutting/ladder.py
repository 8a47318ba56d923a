"""`cut`: the ladder from slices alone to groups that are left whole."""

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from torch import nn

from gracile.attributes import knows, sizes_without_tensors
from gracile.channels import ChannelGroups, Demand, Difference, after_cutting, demands, operator, same_program
from gracile.cutting.patches import Patch, Patches, attributes_read, fewest, patches_of, with_patches
from gracile.cutting.programs import Programs
from gracile.cutting.trials import Bench, Trial
from gracile.errors import GracileError, PlanError
from gracile.graph import Graph, Spec, capture
from gracile.oracle import EXACT
from gracile.plan import Edit, Plan, ReplaceModule, SetAttribute, Slice, child
from gracile.surgery import swapped
from gracile.wide import hollow


@dataclass(frozen=True, slots=True)
class Cut:
    """A Plan that removes channels, and what it took."""

    plan: Plan
    # Difference from the zeroed original on the example inputs, relative to its largest output; NaN where it was not
    # looked at.
    error: float
    # Groups that were left whole because the model's code would not follow -> why.
    dropped: Mapping[str, str]
    # What the user should know of the result.
    notes: tuple[str, ...] = ()
    # Seconds for finding the plan, and for showing that it is right.
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def rungs(self) -> dict[str, int]:
        """How many Edits each rung of the ladder took, and how many groups were left whole."""
        attributes = sum(isinstance(edit, SetAttribute) for edit in self.plan.edits)
        replaced = [edit.by for edit in self.plan.edits if isinstance(edit, ReplaceModule)]
        programs = replaced.count("program")
        return {
            "attributes": attributes,
            "replaced": len(replaced) - programs,
            "programs": programs,
            "dropped": len(self.dropped),
        }


@dataclass(slots=True)
class _Memory:
    """What an earlier cut of a graph found out about its model."""

    # Module -> the attributes that its code reads.
    read: dict[str, dict[str, Any]] = field(default_factory=dict)
    # Classes and attributes that were patched; None where no cut had to climb.
    taken: set[tuple[type, str]] | None = None
    programs: Programs | None = None


_MEMORIES: WeakKeyDictionary[Graph, _Memory] = WeakKeyDictionary()


def _memory_of(graph: Graph) -> _Memory:
    return _MEMORIES.setdefault(graph, _Memory())


class _Clock:
    """Seconds of planning and of verification."""

    def __init__(self) -> None:
        self.seconds = {"plan": 0.0, "verify": 0.0}

    def timed(self, phase: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        try:
            return work()
        finally:
            self.seconds[phase] += time.perf_counter() - start


def cut(
    model: nn.Module,
    graph: Graph,
    groups: ChannelGroups,
    removed: Mapping[str, Iterable[int]],
    *,
    verify: bool = True,
) -> Cut:
    """Plan to remove channels of ``model``, verified on the graph's example inputs.

    Args:
        graph: a capture of ``model``, which is left as it is.
        groups: the channel groups of ``graph``.
        removed: group name -> the channels to remove.
        verify: compare with the zeroed original.  Without, the model is run only where its code holds sizes that
            must follow, and in its own precision.

    Raises:
        InputError: a group or channel does not exist, or nothing would be left of an axis.
        PlanError: the cut model does not run or is wrong, and no group alone is to blame.
    """
    left = {name: list(channels) for name, channels in removed.items()}
    dropped: dict[str, str] = {}
    clock = _Clock()
    bench: Bench | None = None
    while any(left.values()):
        climb = clock.timed("plan", partial(_Climb, model, graph, groups, left, clock))
        known = None if verify else climb.base if climb.plain else clock.timed("plan", climb.remembered)
        if known is not None:
            return Cut(known, math.nan, dropped, climb.notes, clock.seconds)
        if bench is None:
            bench = clock.timed("verify", lambda: Bench(model, graph, double=verify))
        plan, trial = climb.to_the_top(bench)
        if bench.fits(trial):
            return Cut(plan, trial.error, dropped, climb.notes, clock.seconds)
        blamed, reason = climb.blamed(bench, trial, plan)
        stubborn = [name for name in blamed if left.get(name)]
        if not stubborn:
            wrong = clock.timed("verify", partial(_wrong_alone, partial(_Climb, model, graph, groups), left, bench))
            stubborn = list(wrong)
        if not stubborn:
            raise PlanError(f"the cut model does not equal the zeroed original: {reason}")
        for name in stubborn:
            dropped[name] = reason
            del left[name]
    return Cut(Plan(), 0.0, dropped, (), clock.seconds)


def _wrong_alone(
    climbing: Callable[..., "_Climb"], removed: Mapping[str, Iterable[int]], bench: Bench
) -> Iterator[str]:
    """The groups that code does not follow even without the others, by halves: where no literal says whose fault it is.

    A group whose cut is wrong although the code follows is none of them: that is a fault of ours, and must be seen.
    """
    climb = climbing(removed, _Clock())
    plan, trial = climb.to_the_top(bench)
    if bench.fits(trial):
        return
    if len(removed) == 1:
        if not climb.followed(bench, trial, plan):
            yield from removed
        return
    names = [name for name, channels in removed.items() if channels]
    for half in (names[: len(names) // 2], names[len(names) // 2 :]):
        if half:
            yield from _wrong_alone(climbing, {name: removed[name] for name in half}, bench)


class _Climb:
    """One set of slices, and the search for the Edits that make the model run with them."""

    def __init__(
        self,
        model: nn.Module,
        graph: Graph,
        groups: ChannelGroups,
        removed: Mapping[str, Iterable[int]],
        clock: _Clock,
    ) -> None:
        self._graph, self._groups, self._clock = graph, groups, clock
        self._kept = {axis: tuple(keep.tolist()) for axis, keep in groups.kept(removed).items()}
        self._smaller = after_cutting(graph, self._kept, groups=groups)
        self._demands = demands(graph, groups, self._kept, self._smaller)
        self._modules = dict(model.named_modules(remove_duplicate=False))
        slices: list[Edit] = [Slice(tensor=name, axis=axis, keep=keep) for (name, axis), keep in self._kept.items()]
        attention = [*self._replacements(), *self._norms()]
        replaced = {edit.module for edit in attention if isinstance(edit, ReplaceModule)}
        # Modules whose own code wrote literals that must change, and which nobody looks after.
        self._open = {
            demand.module
            for demand in self._demands
            if not knows(self._modules.get(demand.module)) and demand.module not in replaced
        }
        self.slices, self.base = Plan(edits=tuple(slices)), Plan(edits=(*attention, *slices))
        self.notes: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether slices, and what goes with them, must be enough."""
        return not self._open

    def remembered(self) -> Plan | None:
        """The plan by what an earlier cut of the same graph took; None where there was none."""
        memory = _memory_of(self._graph)
        if memory.taken is None:
            return None
        found = patches_of(memory.read, self._modules, self._graph, self._demands, self._open)
        chosen = [patch for patch in found if patch[:2] in memory.taken]
        programs, self.notes = memory.programs.made(self._smaller) if memory.programs else ({}, ())
        return with_patches(self.base, found, chosen, programs)

    def to_the_top(self, bench: Bench) -> tuple[Plan, Trial]:
        """The plan that came furthest, and how far that is."""
        timed = self._clock.timed
        timed("verify", lambda: bench.expect(self.slices, self._groups))
        plan = self.base if self.plain else timed("plan", self.remembered) or self.base
        trial = timed("verify", lambda: self._tried(bench, plan))
        if bench.fits(trial):
            return plan, trial
        return timed("plan", lambda: self._higher(bench, trial))  # type: ignore[no-any-return]

    def _tried(self, bench: Bench, plan: Plan) -> Trial:
        """Where rounding could hide a wrong cut, the program must also have the expected shapes."""
        trial = bench.trial(plan.edits)
        if bench.tolerance <= EXACT or not bench.fits(trial):
            return trial
        difference = self._difference(bench, plan)
        return trial if difference is None else Trial(math.inf, trial.ran, difference.module, difference.text)

    def _higher(self, bench: Bench, trial: Trial) -> tuple[Plan, Trial]:
        """With attributes patched, and then with programs."""
        self.notes = ()
        memory = _memory_of(self._graph)
        memory.read |= attributes_read(bench.model, bench.inputs, self._open - memory.read.keys())
        found = patches_of(memory.read, self._modules, self._graph, self._demands, self._open)
        chosen, trial = fewest(bench, self.base, found, trial)
        plan = with_patches(self.base, found, chosen)
        trial = self._tried(bench, plan) if found else trial
        if not bench.fits(trial):
            memory.programs = memory.programs or Programs(bench.model, bench.inputs, self._graph)
            plan, trial, chosen = self._with_programs(bench, memory.programs, found, chosen, trial)
        if bench.fits(trial):
            memory.taken = {patch[:2] for patch in chosen}
        return plan, trial

    def _with_programs(
        self, bench: Bench, extracted: Programs, found: Patches, chosen: list[Patch], trial: Trial
    ) -> tuple[Plan, Trial, list[Patch]]:
        """Replace the modules whose code stopped the model by their programs, and then those around them."""
        plan, best = with_patches(self.base, found, chosen), (trial, chosen)
        current, seen = plan, set[str]()
        while not bench.fits(trial):
            suspects = self._suspects(self._stopped(bench, trial, current)[0], seen)
            if not suspects:
                break
            seen |= suspects
            if not extracted.extract(suspects):
                continue
            programs, self.notes = extracted.made(self._smaller)
            kinds = {type(self._modules[path]) for path in programs}
            left = {patch: edits for patch, edits in found.items() if patch[0] not in kinds}
            base = with_patches(self.base, {}, (), programs)
            chosen = [patch for patch in chosen if patch in left]
            current = with_patches(base, left, chosen)
            trial = self._tried(bench, current)
            if not bench.fits(trial) and left:
                # What a patch is good for may show only now that the model comes further.
                chosen, trial = fewest(bench, base, left, bench.trial(base.edits))
                current = with_patches(base, left, chosen)
                trial = self._tried(bench, current)
            if bench.better(trial, best[0]):
                plan, best = current, (trial, chosen)
        return plan, *best

    def _suspects(self, path: str, seen: Collection[str]) -> set[str]:
        """The innermost modules around ``path`` with code of their own that a cut touches, all of one class."""
        for around in _outwards(path):
            kind = type(self._modules.get(around))
            alike = {other for other in self._touched if type(self._modules[other]) is kind} - set(seen)
            if around in self._touched and alike:
                return alike
        return set()

    @cached_property
    def _touched(self) -> set[str]:
        """Modules whose own code runs operators on what is cut, torch's own apart."""
        nodes = self._graph.nodes.values()
        cut = {node.name for node in nodes if node.output != self._smaller.nodes[node.name].output}
        paths = {node.module for node in self._graph.calls if cut.intersection((node.name, *node.refs))}
        paths = (paths | self._open) & self._modules.keys()
        return {path for path in paths - {""} if not knows(self._modules[path])}

    def blamed(self, bench: Bench, trial: Trial, plan: Plan) -> tuple[list[str], str]:
        """The groups whose removal changes literals in the code that stopped the model, and what it said."""
        path, problem = self._stopped(bench, trial, plan)
        found = list[Demand]()
        for around in _outwards(path):
            kind = type(self._modules.get(around))
            paths = {other for other in self._open if type(self._modules[other]) is kind}
            found = [demand for demand in self._demands if demand.module in paths]
            if found:
                break
        components = frozenset().union(*(demand.removed for demand in found or self._demands))
        names = [
            group.name for group in self._groups.groups if components & set(self._groups.component_of(group).tolist())
        ]
        return names, f"the code of {path or 'the model'} does not follow: {problem}{self._computed(problem)}"

    def _computed(self, problem: str) -> str:
        """Where tensors are computed from others, which a cut cannot know: which modules, and the way out."""
        paths = [path for path, module in self._modules.items() if nn.utils.parametrize.is_parametrized(module)]
        if not paths or "parametrized" in problem:
            return ""
        return (
            f"; {', '.join(paths[:3])} {'is' if len(paths) == 1 else 'are'} parametrized, as by weight_norm: make the "
            "tensors plain with torch.nn.utils.parametrize.remove_parametrizations"
        )

    def followed(self, bench: Bench, trial: Trial, plan: Plan) -> bool:
        """Whether the model ran to its end as the program that it should be."""
        return not trial.problem and self._difference(bench, plan) is None

    def _stopped(self, bench: Bench, trial: Trial, plan: Plan) -> tuple[str, str]:
        """The module where the model stopped or went wrong, and what it said."""
        if trial.problem:
            return trial.module, trial.problem
        difference = self._difference(bench, plan)
        return (difference.module, difference.text) if difference else ("", "its output is wrong")

    def _difference(self, bench: Bench, plan: Plan) -> Difference | None:
        """Where the cut model's program is not what it should be."""
        try:
            with swapped(bench.model, plan.edits) as model, hollow(model):
                small = capture(model, bench.inputs, training=False)
        except GracileError:
            return None
        return same_program(self._smaller, small)

    def _replacements(self) -> list[Edit]:
        """Torch's attention modules that lose something, replaced."""
        edits: list[Edit] = []
        owners = {name.rpartition(".")[0] for name, _ in self._kept}
        for path, module in self._modules.items():
            if type(module) is nn.MultiheadAttention and owners & {path, child(path, "out_proj")}:
                edits.append(ReplaceModule(module=path, by="multihead_attention"))
                keep = self._kept.get((child(path, "out_proj.weight"), 1))
                if keep is not None:
                    heads = np.isin(np.arange(module.embed_dim), keep).reshape(module.num_heads, -1).any(1)
                    edits.append(SetAttribute(module=path, name="num_heads", value=int(heads.sum())))
        return edits

    def _norms(self) -> list[Edit]:
        """The sizes that normalisations without tensors note, which no slice brings along."""
        edits: dict[tuple[str, str], Edit] = {}
        for node in self._graph.calls:
            smaller, module = self._smaller.nodes[node.name], self._modules.get(node.module)
            if node.output == smaller.output or not isinstance(smaller.output, Spec) or module is None:
                continue
            sizes = sizes_without_tensors(module, operator(node), smaller.args, smaller.output.shape)
            for name, value in sizes.items():
                if getattr(module, name) != value:
                    edits[node.module, name] = SetAttribute(module=node.module, name=name, value=value)
        return list(edits.values())


def _outwards(path: str) -> list[str]:
    """A module's path, that of the module around it, and so on to the model itself."""
    paths = [path]
    while path:
        path = path.rpartition(".")[0]
        paths.append(path)
    return paths
