"""`Memo`: evaluations of one model with one change after the other, that compute what they share only once.

While it is on, the model's own forward is wrapped.  In a call whose inputs have been seen before, bit for bit, the
largest submodules that do not depend on the changed tensors return copies of what they returned before; those of a
submodule are used only after it has put out the same twice.  In any other case (training mode, gradients, hooks,
tracing, random operators, tensor subclasses, inputs that change) the model runs in full.
"""

import logging
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from gracile.errors import GracileError
from gracile.graph import Graph, capture, fitted, tensors_of
from gracile.inputs import Inputs
from gracile.search.memo.bypass import Program, Units
from gracile.search.memo.calls import Replacement, installed
from gracile.search.memo.conditions import Untouched, key_of, runs_in_full, stamp_of
from gracile.search.memo.entries import Entries, Entry, Hollow, Stamp, aliases, equal, hollow, private

log = logging.getLogger(__name__)

# Programs of inputs of different shapes that are captured; calls with others run in full.
_PROGRAMS = 8
# Changes under which inputs of a form are met before their program is captured: that takes as long as some evaluations.
_WORTH = 2
# Changes without a single input that came again, after which it is given up.
_PATIENCE = 3


@dataclass(frozen=True, slots=True)
class Usage:
    """How much was not computed."""

    # Calls of the model, and those in which some submodule did not run.
    calls: int = 0
    hits: int = 0
    # MACs of the calls with a known program, and those of them that were not computed.
    macs: int = 0
    saved: int = 0

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(self.calls - other.calls, self.hits - other.hits, self.macs - other.macs, self.saved - other.saved)

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.calls + other.calls, self.hits + other.hits, self.macs + other.macs, self.saved + other.saved)


class Memo:
    """Kept outputs of the submodules of one model."""

    def __init__(self, model: nn.Module, limit: int, graph: Graph | None = None) -> None:
        """Args:
        limit: bounds the bytes of the kept outputs; 0 keeps none.
        graph: a capture of ``model``, whose programs for other inputs may be known already.
        """
        self.usage = Usage()
        self.entries = Entries(limit)
        # Signature of the inputs -> unit -> the form of its output.
        self.hollows: dict[str, dict[str, Hollow]] = {}
        # Submodules that cannot be left out.
        self.refused: set[str] = set()
        # Submodules that have put out the same twice.
        self.trusted: set[str] = set()
        self._model = model
        self._graph = graph
        self._programs: dict[str, Program | None] = {}
        # Signature -> inputs whose program is to be captured when the model is next as it was, and the changes under
        # which such inputs were met.
        self._waiting: dict[str, tuple[Inputs, set[int]]] = {}
        self._seen: set[str] = set()
        self._changes = self._repeats = 0

    @contextmanager
    def during(self, model: nn.Module, touched: Collection[str]) -> Iterator[None]:
        """Inside the block ``model``, which is the memo's model under a change, uses the memo.

        Args:
            touched: names of the parameters and buffers of the unchanged model that the change alters, replaces or
                adds to.
        """
        hopeless = self._changes >= _PATIENCE and not self._repeats
        if not self.entries.limit or model is not self._model or hopeless:
            yield
            return
        self._changes += 1
        change = _Change(self, model, frozenset(touched))
        with installed({model: Replacement(model, change.call)}):
            yield

    def learn(self) -> None:
        """Capture the programs of the inputs that were met; to be called while the model is as it was."""
        worth = [signature for signature, (_, changes) in self._waiting.items() if len(changes) >= _WORTH]
        for signature in worth:
            inputs, _ = self._waiting.pop(signature)
            try:
                program = Program(self._captured(inputs))
            except GracileError as error:
                log.info("no outputs are kept for these inputs: %s", error)
                program = None
            self._programs[signature] = None if program is None or program.random else program

    def _captured(self, inputs: Inputs) -> Graph:
        graph = self._graph
        return capture(self._model, inputs, training=False) if graph is None else fitted(graph, self._model, inputs)

    def forget(self) -> None:
        """Drop all outputs: the weights may have changed."""
        self.entries.clear()

    def program(self, signature: str, key: str, inputs: Inputs) -> Program | None:
        """The program of inputs of this form, once it has been captured."""
        self._repeats += key in self._seen
        self._seen.add(key)
        room = len(self._programs) + len(self._waiting) < _PROGRAMS
        if signature in self._waiting or (signature not in self._programs and room):
            self._waiting.setdefault(signature, (inputs, set()))[1].add(self._changes)
        return self._programs.get(signature)


class _Change:
    """The calls of the model while one change is in force."""

    def __init__(self, memo: Memo, model: nn.Module, touched: frozenset[str]) -> None:
        self._memo = memo
        self._touched = touched
        self._tensors = tensors_of(model)
        self._modules = dict(model.named_modules(remove_duplicate=False))
        paths = Counter(self._modules.values())
        # Modules with several names.
        self._shared = {name for name, module in self._modules.items() if paths[module] > 1}
        # By the inputs' signature, with the number of refused units at that time.
        self._units: dict[str, tuple[int, Units]] = {}

    def call(self, model: Replacement, inputs: Inputs) -> Any:
        """One call of the model."""
        memo = self._memo
        memo.usage += Usage(calls=1)
        why = runs_in_full(model.module, inputs)
        if why == "training":
            memo.forget()
        if why is not None:
            return model.plain(inputs)
        signature, key = repr(inputs.signature), key_of(inputs)
        program = memo.program(signature, key, inputs)
        if program is None:
            return model.plain(inputs)
        units = self._units_of(signature, program)
        run = _Pass(memo, units, key, signature, self._stamps(units))
        try:
            with installed({self._modules[path]: run.replacement(self._modules[path], path) for path in units.units}):
                output = model.plain(inputs)
        except _CalledAgainError:
            return model.plain(inputs)
        memo.usage += run.usage()
        return output

    def _units_of(self, signature: str, program: Program) -> Units:
        refused = self._memo.refused
        if self._units.get(signature, (-1,))[0] != len(refused):
            self._units[signature] = len(refused), program.units(self._touched, refused | self._shared)
        return self._units[signature][1]

    def _stamps(self, units: Units) -> dict[str, Stamp | None]:
        return {path: stamp_of(unit.tensors, self._tensors) for path, unit in units.units.items()}


class _CalledAgainError(Exception):
    """A unit that did not run was called a second time."""


class _Pass:
    """One call of the model: which units return what is kept, and what the others put out."""

    def __init__(self, memo: Memo, units: Units, key: str, signature: str, stamps: dict[str, Stamp | None]) -> None:
        self._memo = memo
        self._units = units
        self._key = key
        self._stamps = stamps
        self._hollows = memo.hollows.setdefault(signature, {})
        self._frontier = {path for path, unit in units.units.items() if unit.read_outside}
        self._given: dict[str, Entry] = {}
        self._skipped: set[str] = set()
        self._settle()

    def _settle(self) -> None:
        """From the last unit to the first: what is needed comes from the entries, or is computed."""
        needed = set(self._frontier)
        for path, unit in reversed(list(self._units.units.items())):
            stamp = self._stamps[path]
            entry = None if stamp is None else self._memo.entries.get(path, self._key, stamp)
            if path in needed and entry is not None and entry.confirmed:
                self._given[path] = entry
            elif path not in needed and path in self._hollows:
                self._skipped.add(path)
            else:
                needed.update(unit.feeders)

    def usage(self) -> Usage:
        """What this call has saved; to be asked after it."""
        if self._frontier <= self._given.keys():
            self._memo.entries.drop_others(self._key, self._frontier)
        left_out = [*self._given, *self._skipped]
        saved = sum(self._units.units[path].macs for path in left_out)
        return Usage(hits=bool(left_out), macs=self._units.macs, saved=saved)

    def replacement(self, module: nn.Module, path: str) -> Replacement:
        """What the unit's module does in this call."""
        calls = 0

        def forward(own: Replacement, inputs: Inputs) -> Any:
            nonlocal calls
            calls += 1
            if calls > 1:
                self._refuse(path, "is called more than once")
                if path in self._given or path in self._skipped:
                    # What feeds it may not have run.
                    raise _CalledAgainError
                return own.plain(inputs)
            if path in self._given:
                return self._given[path].copy()
            if path in self._skipped:
                return self._hollows[path].made()
            return self._observed(own, path, inputs)

        return Replacement(module, forward)

    def _observed(self, own: Replacement, path: str, inputs: Inputs) -> Any:
        """Run the unit; keep its output if it is such that it can be kept."""
        untouched = Untouched([*inputs.tensors, *own.module.parameters(), *own.module.buffers()])
        output = own.plain(inputs)
        if not untouched:
            self._refuse(path, "writes into its inputs or tensors, or draws random numbers")
        elif aliases(output, inputs.tensors):
            self._refuse(path, "returns its input, or a view of it")
        else:
            self._keep(path, output)
        return output

    def _keep(self, path: str, output: Any) -> None:
        stamp = self._stamps[path]
        copied = private(output)
        if copied is None or stamp is None:
            self._refuse(path, "puts out what cannot be copied")
            return
        form = hollow(*copied)
        if form is not None:
            self._hollows[path] = form
        if path not in self._frontier:
            return
        entry = self._memo.entries.get(path, self._key, stamp)
        if entry is None:
            made = Entry(stamp, *copied, confirmed=path in self._memo.trusted)
            self._memo.entries.put(path, self._key, made, self._frontier)
        elif equal(entry.leaves, copied[0]):
            entry.confirmed = True
            self._memo.trusted.add(path)
        else:
            self._refuse(path, "does not put out the same twice")

    def _refuse(self, path: str, why: str) -> None:
        log.debug("the output of %s is not kept: it %s", path, why)
        self._memo.refused.add(path)
        self._memo.entries.drop_unit(path)
