"""The config_list of NNI up to 2.10, as rules."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from gracile.compat.nni.common.checking import entries_of, known_keys, known_modules, number
from gracile.compat.nni.common.rules import Rule, bias_follows, parameter_of
from gracile.compat.nni.common.selecting import SELECTORS, Modules
from gracile.errors import InputError

_SPARSITIES = ("sparsity", "sparsity_per_layer", "total_sparsity")
KEYS = (*SELECTORS, "exclude", *_SPARSITIES, "max_sparsity_per_layer", "rho")

# Of a layer under a total_sparsity, at most this share goes where the entry says nothing.
_USUAL_CAP = 0.99


def rules_of(model: nn.Module, config_list: Any) -> tuple[Rule, ...]:
    """One rule for each module that is masked, in the order of the model.

    Of entries that select one module the last one holds; an entry with ``exclude`` takes modules out of those before
    it.  Modules under one ``total_sparsity`` form a group of their own, of which each keeps at least a hundredth.

    Raises:
        InputError: an entry is wrong, which the message names by its place and key.
    """
    modules = Modules(model)
    found: dict[str, Rule] = {}
    for place, entry in enumerate(entries_of(config_list)):
        where = f"config_list[{place}]"
        known_keys(where, entry, KEYS)
        names = modules.selected(where, entry)
        if entry.get("exclude", False):
            for name in names:
                found.pop(name, None)
            continue
        rule = _rule(where, entry)
        caps = _caps(where, entry, modules)
        if isinstance(entry.get("max_sparsity_per_layer"), Mapping):
            known_modules(where, "max_sparsity_per_layer", caps, modules.by_name)
        for name in names:
            module = modules.by_name[name]
            if parameter_of(module, "weight") is None:
                _without_weight(where, entry, name, modules)
                continue
            cap = caps.get(name, caps.get("", rule.max_ratio))
            found[name] = replace(rule, module=name, max_ratio=cap, followers=bias_follows(module))
    if not found:
        raise InputError(f"config_list selects no module with a weight in {type(model).__name__}")
    return tuple(found[name] for name in modules.by_name if name in found)


def _rule(where: str, entry: Mapping[str, Any]) -> Rule:
    given = [key for key in _SPARSITIES if key in entry]
    if len(given) > 1:
        raise InputError(f"{where}: {' and '.join(given)} say the same thing twice; give one of them")
    if not given:
        raise InputError(f"{where} says nothing of how much goes: give sparsity or total_sparsity, or exclude: True")
    if "max_sparsity_per_layer" in entry and "total_sparsity" not in entry:
        raise InputError(f"{where}: max_sparsity_per_layer goes with total_sparsity, which is missing")
    rho = number(where, "rho", entry.get("rho", 1e-4), high=float("inf"))
    if not rho:
        raise InputError(f"{where}: rho is 0, which draws weights nowhere; give a number above 0, as 1e-4")
    return Rule(
        where=where,
        module="",
        ratio=number(where, given[0], entry[given[0]]),
        max_ratio=_USUAL_CAP if "total_sparsity" in entry else 1.0,
        global_group=where if "total_sparsity" in entry else None,
        rho=rho,
    )


def _caps(where: str, entry: Mapping[str, Any], modules: Modules) -> dict[str, float]:
    """Module name -> at most this share of it goes; "" stands for the others."""
    given = entry.get("max_sparsity_per_layer")
    if given is None:
        return {}
    if isinstance(given, Mapping):
        known_modules(where, "max_sparsity_per_layer", map(str, given), modules.by_name)
        return {str(name): number(where, f"max_sparsity_per_layer[{name!r}]", cap) for name, cap in given.items()}
    return {"": number(where, "max_sparsity_per_layer", given)}


def _without_weight(where: str, entry: Mapping[str, Any], name: str, modules: Modules) -> None:
    if name in entry.get("op_names", ()):
        raise InputError(f"{where}: {name!r} is a {modules.kind(name)}, which has no weight that could be masked")
