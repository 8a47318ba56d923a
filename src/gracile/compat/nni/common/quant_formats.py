"""Formats as the methods of training need them."""

import logging
from collections.abc import Mapping

from gracile.compat.nni.common.quant_rules import QuantRules, Target
from gracile.errors import InputError
from gracile.maths.quant_spec import PerBlock, PerTensor, QuantSpec

log = logging.getLogger(__name__)


def fitted(rules: QuantRules, method: str) -> QuantRules:
    """The rules with what a method needs.

    DoReFa's 2^k levels of a weight are held by k + 1 signed bits, its activations are unsigned; BNN's two levels are
    one signed bit; LSQ's formats are symmetric, LSQ+'s are as they are.

    Raises:
        InputError: a format does not go with the method.
    """
    changed = {
        name: {target: _fitted(f"{method}, {name!r}", target, spec, method) for target, spec in targets.items()}
        for name, targets in rules.modules.items()
    }
    return QuantRules(modules=changed, start=rules.start)


def _fitted(where: str, target: Target, spec: QuantSpec, method: str) -> QuantSpec:
    if method != "qat" and isinstance(spec.granularity, PerBlock):
        raise InputError(f"{where}: scales of blocks can be trained with QAT alone; leave granularity out")
    if method == "dorefa":
        if target == "weight":
            return _plain(spec, bits=spec.bits + 1, signed=True, symmetric=True)
        return _plain(spec, bits=spec.bits, signed=False, symmetric=False)
    if method == "bnn":
        return _plain(spec, bits=1, signed=True, symmetric=True)
    if method == "lsq" and not spec.symmetric and target == "weight":
        log.warning("%s: LSQ's weights are symmetric, and so they are here, whatever quant_scheme says", where)
        return spec.model_copy(update={"symmetric": True})
    return spec


def _plain(spec: QuantSpec, *, bits: int, signed: bool, symmetric: bool) -> QuantSpec:
    if not isinstance(spec.granularity, PerTensor):
        log.warning("DoReFa and BNN have one scale for the whole tensor, whatever granularity says")
    return QuantSpec(bits=bits, signed=signed, symmetric=symmetric, narrow=signed and symmetric and bits > 1)


def naive(rules: QuantRules) -> QuantRules:
    """The weights alone, with the scale max |w| / 127."""
    spec = QuantSpec(bits=8, narrow=True)
    modules: Mapping[str, Mapping[Target, QuantSpec]] = {
        name: {"weight": spec} for name, targets in rules.modules.items() if "weight" in targets
    }
    if not modules:
        raise InputError("NaiveQuantizer quantizes weights, and config_list selects none: quant_types: ['weight']")
    return QuantRules(modules=modules)
