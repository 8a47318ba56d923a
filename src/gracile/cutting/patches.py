"""Integer attributes that a module's code reads, and what they must become."""

import copy
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from gracile.channels import Demand
from gracile.cutting.trials import Bench, Trial
from gracile.graph import Graph, eval_mode
from gracile.inputs import Inputs
from gracile.plan import Plan, ReplaceModule, SetAttribute

# The class of a module, an attribute, and the places of the literals that have its value: the operators, counted
# within the module, and their arguments.  Patched on all instances or none.
Patch: TypeAlias = tuple[type[nn.Module], str, frozenset[tuple[int, int]]]


Patches: TypeAlias = Mapping[Patch, Sequence[SetAttribute]]


def patches_of(
    read: Mapping[str, Mapping[str, Any]],
    modules: Mapping[str, nn.Module],
    graph: Graph,
    demands: Sequence[Demand],
    paths: Collection[str],
) -> dict[Patch, list[SetAttribute]]:
    """The attributes that the modules ``paths`` ``read`` and that literals are equal to, with what they become."""
    found: dict[tuple[str, str], list[tuple[Any, tuple[int, int]]]] = {}
    ordinals = _ordinals(graph)
    for demand in demands:
        for name, value in read.get(demand.module, {}).items() if demand.module in paths else ():
            for index, (before, after) in enumerate(demand.sizes):
                changed = _followed(value, before, after)
                if changed is not None:
                    found.setdefault((demand.module, name), []).append((changed, (ordinals[demand.node], index)))
    made: dict[Patch, list[SetAttribute]] = {}
    for (path, name), matches in found.items():
        edit = SetAttribute(module=path, name=name, value=_agreed(read[path][name], [value for value, _ in matches]))
        places = frozenset(place for _, place in matches)
        made.setdefault((type(modules[path]), name, places), []).append(edit)
    return made


def _agreed(value: Any, wanted: Sequence[Any]) -> Any:
    """The value that most literals want; of a sequence each element by itself, where some literal wants another."""
    if not isinstance(value, tuple):
        return max(wanted, key=wanted.count)
    elements = []
    for before, *after in zip(value, *wanted, strict=True):
        changed = [item for item in after if item != before]
        elements.append(max(changed, key=changed.count) if changed else before)
    return tuple(elements)


def with_patches(
    base: Plan, found: Patches, chosen: Iterable[Patch], programs: Mapping[str, ReplaceModule] | None = None
) -> Plan:
    """``base``, then the chosen patches, then modules replaced by their programs."""
    edits = [edit for patch in chosen for edit in found[patch]]
    return Plan(edits=(*base.edits, *edits, *(programs or {}).values()))


def fewest(bench: Bench, base: Plan, found: Patches, start: Trial) -> tuple[list[Patch], Trial]:
    """The fewest patches with which the model gets furthest, from none and from all of them.

    Args:
        start: the trial of ``base`` alone.
    """
    if not found:
        return [], start
    chosen, best = _improved(bench, base, found, list(found), None)
    if not bench.fits(best):
        other, trial = _improved(bench, base, found, [], start)
        if bench.better(trial, best):
            chosen, best = other, trial
    return chosen, best


def _improved(
    bench: Bench, base: Plan, found: Patches, chosen: list[Patch], start: Trial | None
) -> tuple[list[Patch], Trial]:
    """Add or leave out one patch at a time for as long as that helps."""

    def tried(patches: list[Patch]) -> Trial:
        return bench.trial(with_patches(base, found, patches).edits)

    best = start or tried(chosen)
    improved = True
    while improved:
        improved = False
        for patch in found:
            # Nothing to add once it fits.
            if (bench.fits(best) and patch not in chosen) or not _may_matter(patch, found[patch], best):
                continue
            other = [item for item in chosen if item != patch] if patch in chosen else [*chosen, patch]
            trial = tried(other)
            fewer = len(other) < len(chosen) and not bench.better(best, trial)
            if bench.better(trial, best) or fewer:
                chosen, best, improved = other, trial, True
    return chosen, best


def _may_matter(patch: Patch, edits: Sequence[SetAttribute], trial: Trial) -> bool:
    """Whether a patch may be why the model stopped: in the code around, and no other that it did not reach."""
    if not trial.problem:
        return patch[0] in trial.entered
    around = trial.module.rpartition(".")[0]
    return any(
        f"{trial.module}.".startswith(f"{edit.module}." if edit.module else "")
        or (around and edit.module.startswith(f"{around}."))
        for edit in edits
    )


def _ordinals(graph: Graph) -> dict[str, int]:
    """Each operator's place among those of its module's call."""
    counts: Counter[tuple[str, int]] = Counter()
    ordinals = {}
    for node in graph.calls:
        ordinals[node.name] = counts[node.module, node.call]
        counts[node.module, node.call] += 1
    return ordinals


def _followed(value: Any, before: Any, after: Any) -> Any:
    """What an attribute becomes when a literal changes that is equal to it, a small multiple or a small part."""
    if value == before:
        return after
    if isinstance(before, tuple):
        return None
    if isinstance(value, tuple):
        return tuple(after if item == before else item for item in value) if before in value and before > 1 else None
    if min(value, before) < 2:
        return None
    for factor in (2, 3, 4):
        if value == factor * before:
            return factor * after
        if before == factor * value and after % factor == 0:
            return after // factor
    return None


def attributes_read(model: nn.Module, inputs: Inputs, paths: Collection[str]) -> dict[str, dict[str, Any]]:
    """The integers, and sequences of them, that each module's code reads from itself on the example inputs.

    Also from objects that it holds, such as a configuration: "config.num_heads".
    """
    named = dict(model.named_modules(remove_duplicate=False))
    modules = {path: named[path] for path in paths if path in named}
    if not modules:
        return {}
    read: dict[str, dict[str, Any]] = {path: {} for path in modules}
    with _spied(modules, read), eval_mode(model, fresh=True), torch.no_grad():
        inputs.call(model)
    return read


@contextmanager
def _spied(modules: Mapping[str, nn.Module], read: Mapping[str, dict[str, Any]]) -> Iterator[None]:
    classes = {path: type(module) for path, module in modules.items()}
    objects: list[tuple[nn.Module, str, Any]] = []
    try:
        for path, module in modules.items():
            for name, held in list(module.__dict__.items()):
                if _is_plain_object(held):
                    # A copy, so that only what this module reads is seen.
                    spy = copy.copy(held)
                    spy.__class__ = _spying(type(held), read[path], f"{name}.")
                    objects.append((module, name, held))
                    module.__dict__[name] = spy
            module.__class__ = _spying(classes[path], read[path])
        yield
    finally:
        for path, module in modules.items():
            module.__class__ = classes[path]
        for module, name, held in objects:
            module.__dict__[name] = held


def _is_plain_object(held: Any) -> bool:
    """Whether it is an instance of a class that somebody wrote in Python, with attributes, and no part of torch's."""
    kind = type(held)
    return (
        not isinstance(held, nn.Module | Tensor | type)
        and not callable(held)
        and kind.__module__.partition(".")[0] not in ("builtins", "torch", "collections", "functools", "enum")
        and hasattr(held, "__dict__")
        and bool(kind.__flags__ & 1 << 9)
    )


def _spying(kind: type, read: dict[str, Any], prefix: str = "") -> Any:
    def attribute(self: Any, name: str) -> Any:
        value = cast(Any, kind).__getattribute__(self, name)
        if name in object.__getattribute__(self, "__dict__"):
            if isinstance(value, int) and not isinstance(value, bool):
                read[prefix + name] = value
            elif isinstance(value, tuple | list) and value and all(type(item) is int for item in value):
                read[prefix + name] = tuple(value)
        return value

    return type(kind.__name__, (kind,), {"__getattribute__": attribute})
