"""The config_list of NNI 3, as rules; the keys of earlier releases are taken, too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from gracile.compat.nni.common.checking import entries_of, hint, known_keys, names_list, number
from gracile.compat.nni.common.rules import Granularity, Rule, bias_follows, output_axis
from gracile.compat.nni.common.selecting import SELECTORS, Modules
from gracile.errors import InputError

_SETTINGS = (
    "sparse_ratio", "sparse_threshold", "max_sparse_ratio", "min_sparse_ratio", "global_group_id",
    "dependency_group_id", "internal_metric_block", "granularity", "apply_method", "align",
)  # fmt: skip
_LEGACY = ("sparsity", "sparsity_per_layer", "total_sparsity", "max_sparsity_per_layer", "exclude")
KEYS = (
    *SELECTORS, "exclude_op_names", "exclude_op_names_re", "exclude_op_types", "target_names", "target_settings",
    *_SETTINGS, *_LEGACY,
)  # fmt: skip


def rules_of(model: nn.Module, config_list: Any) -> tuple[Rule, ...]:
    """One rule for each parameter that is masked, in the order of the model.

    Of entries that set one target of one module the last one holds.  An entry with the former key ``exclude`` takes its
    modules out of all entries before it.

    Raises:
        InputError: an entry is wrong, which the message names by its place and key.
    """
    modules = Modules(model)
    found: dict[tuple[str, str], _Setting] = {}
    for place, given in enumerate(entries_of(config_list)):
        where = f"config_list[{place}]"
        known_keys(where, given, KEYS)
        names = modules.selected(where, given)
        if given.get("exclude", False):
            for key in [key for key in found if key[0] in names]:
                del found[key]
            continue
        entry = _modern(where, given)
        for name in names:
            for target in _targets(where, entry, modules, name, chosen="op_names" in entry):
                found[name, target] = _setting(where, entry, name, target)
    rules = _rules(modules, found)
    if not rules:
        raise InputError(f"config_list selects no module with a weight in {type(model).__name__}")
    _require_alike(rules)
    order = {name: place for place, name in enumerate(modules.by_name)}
    return tuple(sorted(rules, key=lambda rule: (order[rule.module], rule.target)))


@dataclass(frozen=True, slots=True)
class _Setting:
    rule: Rule
    # The module and target whose mask this one follows, and the axes of that mask; None for one with scores of its own.
    follows: tuple[str, str, tuple[int, ...]] | None = None


def _modern(where: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry with NNI 3's keys for earlier ones."""
    found = {key: value for key, value in entry.items() if key not in _LEGACY}
    old = [key for key in ("sparsity", "sparsity_per_layer", "total_sparsity") if key in entry]
    if len(old) > 1 or (old and "sparse_ratio" in entry):
        raise InputError(f"{where}: {' and '.join(key for key in (*old, 'sparse_ratio') if key in entry)} say the same "
                         "thing twice; give sparse_ratio")  # fmt: skip
    if old:
        found["sparse_ratio"] = entry[old[0]]
    if "total_sparsity" in entry:
        found.setdefault("global_group_id", where)
    if "max_sparsity_per_layer" in entry:
        found.setdefault("max_sparse_ratio", entry["max_sparsity_per_layer"])
    return found


def _targets(where: str, entry: Mapping[str, Any], modules: Modules, name: str, *, chosen: bool) -> list[str]:
    """Which parameters of a module the entry sets.

    Raises:
        InputError: the module has no such parameter.
    """
    module = modules.by_name[name]
    own = [key for key, parameter in module.named_parameters(recurse=False) if parameter is not None]
    own = [key.rpartition("parametrizations.")[2].removesuffix(".original") for key in own]
    settings = entry.get("target_settings", {})
    if not isinstance(settings, Mapping) or not all(isinstance(value, Mapping) for value in settings.values()):
        raise InputError(f"{where}: target_settings is {settings!r}; give a dictionary of dictionaries, as "
                         "{'weight': {'granularity': 'in_channel'}}")  # fmt: skip
    wanted = names_list(where, "target_names", entry["target_names"]) if "target_names" in entry else None
    listed = [*(wanted or ()), *settings]
    for target in listed:
        if target.startswith(("_input_", "_output_")):
            raise InputError(
                f"{where}: the target {target!r} of {name!r} is an input or output; parameters are masked here, and "
                "gracile.prune.speedup finds what no masked parameter writes or reads"
            )
        if target not in own and (chosen or target not in ("weight", "bias")):
            raise InputError(f"{where}: {modules.kind(name)} {name!r} has no parameter {target!r}{hint(target, own)}")
    if wanted is None:
        wanted = [target for target in ("weight",) if target in own]
        if chosen and not wanted and not settings:
            raise InputError(f"{where}: {name!r} is a {modules.kind(name)}, which has no weight that could be masked")
    return [target for target in dict.fromkeys([*wanted, *settings]) if target in own]


def _setting(where: str, entry: Mapping[str, Any], name: str, target: str) -> _Setting:
    special = entry.get("target_settings", {}).get(target, {})
    label = f"{where}: target_settings[{target!r}]" if special else where
    known_keys(label, special, _SETTINGS)
    values = {**{key: entry[key] for key in _SETTINGS if key in entry}, **special}
    if target == "bias" and not special:
        # A bias has no shortcut: it follows the weight.
        values = {"align": {"target_name": "weight", "dims": [0]}}
    follows = None
    if values.get("align") is not None:
        follows = _align(label, values["align"], name)
        conflicts = [key for key in ("sparse_ratio", "sparse_threshold") if key in special]
        if conflicts:
            raise InputError(f"{label}: align and {conflicts[0]} exclude each other: it follows the other mask")
    apply_method = values.get("apply_method", "mul")
    if apply_method not in ("mul", "bypass"):
        raise InputError(
            f"{label}: apply_method is {apply_method!r}; parameters are masked by 'mul', or not at all by 'bypass'"
            + hint(str(apply_method), ("mul", "bypass"))
        )
    if apply_method == "bypass":
        values = {**values, "sparse_ratio": 0.0}
        values.pop("sparse_threshold", None)
    return _Setting(_rule(label, values, name, target, follows is None), follows)


def _rule(where: str, values: Mapping[str, Any], name: str, target: str, needs: bool) -> Rule:
    ratio, threshold = values.get("sparse_ratio"), values.get("sparse_threshold")
    if ratio is not None and threshold is not None:
        raise InputError(f"{where}: sparse_ratio and sparse_threshold exclude each other; give one")
    if needs and ratio is None and threshold is None:
        raise InputError(f"{where} says nothing of how much goes: give sparse_ratio or sparse_threshold")
    low = number(where, "min_sparse_ratio", values.get("min_sparse_ratio", 0.0))
    high = number(where, "max_sparse_ratio", values.get("max_sparse_ratio", 1.0))
    if low > high:
        raise InputError(f"{where}: min_sparse_ratio {low:g} is above max_sparse_ratio {high:g}")
    runs = values.get("internal_metric_block", 1)
    if runs is None:
        runs = 1
    if isinstance(runs, bool) or not isinstance(runs, int) or runs < 1:
        raise InputError(f"{where}: internal_metric_block is {runs!r}; give a whole number from 1")
    return Rule(
        where=where,
        module=name,
        target=target,
        ratio=None if ratio is None else number(where, "sparse_ratio", ratio),
        threshold=None if threshold is None else number(where, "sparse_threshold", threshold, high=float("inf")),
        min_ratio=low,
        max_ratio=high,
        global_group=_group(where, "global_group_id", values),
        dependency_group=_group(where, "dependency_group_id", values),
        runs=runs,
        granularity=_granularity(where, values.get("granularity", "default")),
    )


def _group(where: str, key: str, values: Mapping[str, Any]) -> str | None:
    value = values.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
        raise InputError(f"{where}: {key} is {value!r}; give a text or a number")
    return None if value is None else str(value)


def _granularity(where: str, value: Any) -> Granularity:
    if value in ("default", "out_channel", "in_channel"):
        return value  # type: ignore[no-any-return]
    if value == "per_channel":
        raise InputError(
            f"{where}: granularity 'per_channel' is for inputs and outputs; take 'out_channel' for a weight"
        )
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise InputError(
            f"{where}: granularity is {value!r}; give 'default', 'out_channel', 'in_channel', or a list of block sizes"
            + hint(str(value), ("default", "out_channel", "in_channel"))
        )
    sizes, side = value, "front"
    if isinstance(value[0], Sequence) and not isinstance(value[0], str):
        sizes, side = value[0], value[1] if len(value) > 1 else "front"
        if side not in ("front", "back"):
            raise InputError(
                f"{where}: granularity pads at {side!r}; it is 'front' or 'back'{hint(str(side), ('front', 'back'))}"
            )
        if len(value) > 2 and value[2] != (1 if side == "front" else -1):
            raise InputError(f"{where}: granularity pads with {value[2]!r}; it is 1 in front and -1 at the back")
    if not all(isinstance(size, int) and not isinstance(size, bool) and (size >= 1 or size == -1) for size in sizes):
        raise InputError(f"{where}: granularity is {value!r}; sizes are whole numbers from 1, or -1 for a whole axis")
    return tuple(sizes), side  # type: ignore[return-value]


def _align(where: str, value: Any, name: str) -> tuple[str, str, tuple[int, ...]]:
    if not isinstance(value, Mapping) or not value.get("target_name") or "dims" not in value:
        raise InputError(f"{where}: align is {value!r}; give {{'target_name': 'weight', 'dims': [0]}}")
    known_keys(f"{where}: align", value, ("module_name", "target_name", "dims"))
    module = value.get("module_name")
    return (
        (name if module is None else str(module)),
        str(value["target_name"]),
        tuple(int(dim) for dim in value["dims"]),
    )


def _rules(modules: Modules, found: Mapping[tuple[str, str], _Setting]) -> list[Rule]:
    """The rules that have scores, each with what follows it.

    Raises:
        InputError: a target follows one that is not masked.
    """
    followers: dict[tuple[str, str], list[tuple[str, tuple[int, ...]]]] = {}
    for (name, target), setting in found.items():
        if setting.follows is None:
            continue
        module, source, dims = setting.follows
        if (module, source) not in found or found[module, source].follows is not None:
            raise InputError(
                f"{setting.rule.where}: {name!r} aligns with {source!r} of {module!r}, which is not masked itself"
            )
        if module != name:
            raise InputError(
                f"{setting.rule.where}: {name!r} aligns with the module {module!r}; masks follow within a module here. "
                "Give both one dependency_group_id"
            )
        if target == "bias" and source == "weight" and dims == (0,):
            dims = (output_axis(modules.by_name[name]),)
        followers.setdefault((module, source), []).append((target, dims))
    rules = []
    for (name, target), setting in found.items():
        if setting.follows is None:
            extra = followers.get((name, target), [])
            module = modules.by_name[name]
            if target == "weight" and (name, "bias") not in found:
                extra = [*extra, *bias_follows(module)]
            rules.append(replace(setting.rule, followers=tuple(extra)))
    return rules


def _require_alike(rules: Sequence[Rule]) -> None:
    """Raises InputError where rules of one group ask for different shares."""
    first: dict[tuple[str, str], Rule] = {}
    for rule in rules:
        for key in ("global_group", "dependency_group"):
            group = getattr(rule, key)
            if group is None:
                continue
            other = first.setdefault((key, group), rule)
            if other.ratio != rule.ratio:
                raise InputError(
                    f"{rule.where}: {rule.module!r} has sparse_ratio {rule.ratio}, and {other.module!r} of the same "
                    f"{key}_id {group!r} has {other.ratio} ({other.where}); one group has one ratio"
                )
            if rule.threshold is not None and key == "global_group":
                raise InputError(f"{rule.where}: sparse_threshold and global_group_id exclude each other")
