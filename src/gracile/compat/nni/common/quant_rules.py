"""What a config_list asks of quantizers, in one form for both dialects: formats for the targets of each module."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from gracile.compat.nni.common.checking import entries_of, hint, known_keys, names_list
from gracile.compat.nni.common.selecting import SELECTORS, Modules
from gracile.errors import InputError
from gracile.maths.quant_spec import PerBlock, PerChannel, PerTensor, QuantSpec, quant_spec

log = logging.getLogger(__name__)

Target = Literal["weight", "input", "output"]
_TARGETS: tuple[Target, ...] = ("weight", "input", "output")
_SETTINGS = ("quant_dtype", "quant_scheme", "granularity", "apply_method")
_METHODS = ("clamp_round", "qat_clamp_round", "bypass")
_LEGACY = ("quant_types", "quant_bits", "quant_start_step", "exclude")
KEYS = (
    *SELECTORS, "exclude_op_names", "exclude_op_names_re", "exclude_op_types", "target_names", "target_settings",
    "fuse_names", *_SETTINGS, *_LEGACY,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantRules:
    """Module -> target -> format."""

    modules: Mapping[str, Mapping[Target, QuantSpec]]
    # Steps of training before quantizers act.
    start: int = 0


@dataclass(slots=True)
class _Found:
    modules: dict[str, dict[Target, QuantSpec]] = field(default_factory=dict)
    start: int = 0


def quant_rules(model: nn.Module, config_list: Any) -> QuantRules:
    """The formats by module, from the keys of NNI 3, of NNI 2, or of both.

    An integer type N of NNI's has levels as many above zero as below: int8 is -127 to 127.  Of entries that set one
    target of one module the last one holds; ``exclude`` takes modules out of all entries before it.  ``fuse_names`` is
    not needed, as batch-norms are folded and activations fused wherever the program has them.

    Raises:
        InputError: an entry is wrong, which the message names by its place and key.
    """
    modules = Modules(model)
    found = _Found()
    for place, entry in enumerate(entries_of(config_list)):
        where = f"config_list[{place}]"
        known_keys(where, entry, KEYS)
        names = modules.selected(where, entry)
        if entry.get("exclude", False):
            for name in names:
                found.modules.pop(name, None)
            continue
        if "fuse_names" in entry:
            log.info("%s: fuse_names is not needed: what follows a layer is fused wherever the program has it", where)
        found.start = max(found.start, _start(where, entry))
        for name in names:
            weighted = getattr(modules.by_name[name], "weight", None) is not None
            for target, spec in _settings(where, entry, weighted).items():
                found.modules.setdefault(name, {})[target] = spec
    chosen = {name: targets for name, targets in found.modules.items() if targets}
    if not chosen:
        raise InputError(f"config_list selects nothing to quantize in {type(model).__name__}")
    return QuantRules(modules=chosen, start=found.start)


def _start(where: str, entry: Mapping[str, Any]) -> int:
    value = entry.get("quant_start_step", 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError(f"{where}: quant_start_step is {value!r}; give a number of steps from 0")
    return value


def _settings(where: str, entry: Mapping[str, Any], weighted: bool) -> dict[Target, QuantSpec]:
    old = "quant_types" in entry or "quant_bits" in entry
    targets = _old_targets(where, entry) if old else _targets(where, entry)
    made: dict[Target, QuantSpec] = {}
    for target in targets if targets is not None else _TARGETS:
        if target == "weight" and not weighted:
            continue
        spec = _old_spec(where, entry, target) if old else _spec(where, entry, target)
        if spec is not None:
            made[target] = spec
    return made


# NNI 3.


def _targets(where: str, entry: Mapping[str, Any]) -> list[Target] | None:
    if "target_names" not in entry and "target_settings" not in entry:
        return None
    settings = entry.get("target_settings", {})
    if not isinstance(settings, Mapping) or not all(isinstance(value, Mapping) for value in settings.values()):
        raise InputError(
            f"{where}: target_settings is {settings!r}; give a dictionary of dictionaries, as "
            "{'weight': {'quant_dtype': 'int4'}}"
        )
    listed = names_list(where, "target_names", entry.get("target_names", [])) + list(settings)
    return [target for name in dict.fromkeys(listed) if (target := _target(where, name)) is not None]


def _target(where: str, name: str) -> Target | None:
    if name == "bias":
        log.info("%s: a bias is held in 32 bits, with the scale of its layer's sums", where)
        return None
    plain = name.strip("_0123456789")
    if plain not in _TARGETS or (plain == "weight") != (name == "weight"):
        raise InputError(
            f"{where}: there is no target {name!r}{hint(name, ('weight', '_input_', '_output_'))}; there are 'weight', "
            "'_input_' and '_output_'"
        )
    index = name.strip("_").removeprefix(plain).strip("_")
    if index not in ("", "0"):
        raise InputError(
            f"{where}: the target is {name!r}; of a module's inputs and outputs the first is quantized by its name, "
            f"{f'_{plain}_0'!r}, and others where the modules that make or read them are"
        )
    return plain


def _special(entry: Mapping[str, Any], target: Target) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, given in entry.get("target_settings", {}).items():
        if name.strip("_0123456789") == target:
            found |= given
    return found


def _spec(where: str, entry: Mapping[str, Any], target: Target) -> QuantSpec | None:
    special = _special(entry, target)
    known_keys(f"{where}: target_settings", special, _SETTINGS)
    values = {**{key: entry[key] for key in _SETTINGS if key in entry}, **special}
    method = values.get("apply_method")
    if method not in (None, *_METHODS):
        raise InputError(
            f"{where}: apply_method is {method!r}{hint(str(method), _METHODS)}; values are quantized by 'clamp_round' "
            "or 'qat_clamp_round', which are the same here, or not at all by 'bypass'"
        )
    if method == "bypass":
        return None
    name = values.get("quant_dtype", "int8" if target == "weight" else "uint8")
    if name is None:
        return None
    scheme = values.get("quant_scheme") or ("symmetric" if target == "weight" else "affine")
    if scheme not in ("symmetric", "affine"):
        raise InputError(f"{where}: quant_scheme is {scheme!r}; give 'symmetric' or 'affine'")
    grain = _granularity(where, values.get("granularity", "default"), target)
    return _made(where, name, scheme == "symmetric", grain)


def _granularity(where: str, value: Any, target: Target) -> PerTensor | PerChannel | PerBlock:
    if value in ("default", None):
        return PerTensor()
    if value == "out_channel" and target == "weight":
        return PerChannel()
    if value == "per_channel" and target != "weight":
        return PerChannel(axis=1)
    if target == "weight" and isinstance(value, Sequence) and not isinstance(value, str) and value:
        *others, size = value
        if all(item == 1 for item in others) and isinstance(size, int) and size > 0:
            return PerBlock(size=size)
        raise InputError(f"{where}: granularity is {value!r}; blocks run along the inputs: give [1, size]")
    choices = "'default', 'out_channel' or [1, size]" if target == "weight" else "'default' or 'per_channel'"
    raise InputError(f"{where}: granularity of the target {target} is {value!r}; give {choices}")


def _made(
    where: str, name: Any, symmetric: bool, grain: PerTensor | PerChannel | PerBlock, bits: int | None = None
) -> QuantSpec:
    try:
        spec = quant_spec(name if bits is None else f"{name}{bits}", symmetric=symmetric, granularity=grain)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return spec.model_copy(update={"narrow": spec.signed and spec.bits > 1})


# NNI 2.


def _old_targets(where: str, entry: Mapping[str, Any]) -> list[Target]:
    _per_target(where, entry)
    names = names_list(where, "quant_types", entry.get("quant_types", ["weight"]))
    for name in names:
        if name not in _TARGETS:
            raise InputError(f"{where}: quant_types has {name!r}; there are {', '.join(map(repr, _TARGETS))}")
    return names  # type: ignore[return-value]


def _old_spec(where: str, entry: Mapping[str, Any], target: Target) -> QuantSpec:
    bits = _of(entry.get("quant_bits", 8), target, 8)
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 16:
        raise InputError(f"{where}: quant_bits of the {target} is {bits!r}; give 1 to 16 bits")
    kind = _of(entry.get("quant_dtype", "uint"), target, "uint")
    scheme = _of(entry.get("quant_scheme", "per_tensor_affine"), target, "per_tensor_affine")
    if kind not in ("int", "uint") or scheme not in _SCHEMES:
        raise InputError(
            f"{where}: the {target} is {kind!r} with {scheme!r}; quant_dtype is 'int' or 'uint', quant_scheme one of "
            f"{', '.join(map(repr, _SCHEMES))}"
        )
    channels = PerChannel() if target == "weight" else PerChannel(axis=1)
    grain = channels if scheme.startswith("per_channel") else PerTensor()
    return _made(where, kind, scheme.endswith("symmetric"), grain, bits)


_SCHEMES = ("per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric")


def _per_target(where: str, entry: Mapping[str, Any]) -> None:
    """Raises InputError for settings of a target that there is not."""
    for key in ("quant_bits", "quant_dtype", "quant_scheme"):
        for name in entry[key] if isinstance(entry.get(key), Mapping) else ():
            if name not in _TARGETS:
                known = ", ".join(map(repr, _TARGETS))
                raise InputError(f"{where}: {key} has {name!r}{hint(str(name), _TARGETS)}; there are {known}")


def _of(value: Any, target: Target, usual: Any) -> Any:
    return value.get(target, usual) if isinstance(value, Mapping) else value
