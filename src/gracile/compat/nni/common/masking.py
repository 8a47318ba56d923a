"""Masks on the parameters of a model, as rules say: gracile's gates, with NNI's dictionaries outside."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gracile.compat.nni.common.allocating import Grown, allocate
from gracile.compat.nni.common.rules import Rule, block_of
from gracile.errors import InputError
from gracile.graph import tensors_of
from gracile.plan import child
from gracile.prune.gates import Gate, gates_of, put_gates, take_gates
from gracile.prune.units import Blocks

log = logging.getLogger(__name__)

# Module -> parameter -> 1.0 where values stay, in the parameter's shape.
Masks = dict[str, dict[str, Tensor]]


class Masking:
    """The gates of one pruner."""

    def __init__(self, model: nn.Module, rules: Sequence[Rule], default: Literal["output", "element"]) -> None:
        """Put gates that hide nothing yet.

        Raises:
            InputError: blocks do not divide a parameter, or another pruner has it.
        """
        self.model = model
        self.rules = _once(model, rules)
        tensors = tensors_of(model)
        self.blocks = {rule.name: _blocks(model, rule, default) for rule in self.rules}
        self.gone = {name: torch.zeros(item.count, dtype=torch.bool) for name, item in self.blocks.items()}
        self._followers = {
            child(rule.module, target): (rule.name, axes) for rule in self.rules for target, axes in rule.followers
        }
        self.names = (*self.blocks, *(name for name in self._followers if name not in self.blocks))
        masked = [name for name in self.names if name in gates_of(model)]
        if masked:
            raise InputError(
                f"{masked[0]} is masked already, by another pruner: unwrap_model() takes masks away, and an entry "
                "with other op_names leaves the module to that pruner"
            )
        self._shapes = {name: tuple(tensors[name].shape) for name in self.names}
        self._zeros: dict[str, Tensor] = {
            name: torch.zeros([1] * len(shape), dtype=torch.bool) for name, shape in self._shapes.items()
        }
        self._gates: dict[str, list[Gate]] = {}
        self.wrapped = False
        self.wrap()

    def wrap(self) -> None:
        """Put the masks on the model."""
        if not self.wrapped:
            put_gates(self.model, self._zeros)
            found = gates_of(self.model)
            self._gates = {name: found[name] for name in self.names}
            self.wrapped = True

    def unwrap(self, *, keep_zeros: bool = False) -> None:
        """Take them away: the values that they hid stand there again, or zeros."""
        if self.wrapped:
            gates = [gate for gates in self._gates.values() for gate in gates]
            take_gates(self.model, keep_zeros=keep_zeros, only=gates)
            self._gates = {}
            self.wrapped = False

    @property
    def elements(self) -> dict[str, int]:
        return {name: item.elements for name, item in self.blocks.items()}

    def matrix(self, name: str, value: Tensor) -> Tensor:
        """[units, elements] of what stands for the parameter ``name``."""
        return self.blocks[name].matrices(name, value)[0]

    def allocate(self, scores: Mapping[str, Tensor], grown: Grown = lambda ratio: ratio) -> None:
        """Mask what `gracile.compat.nni.common.allocating.allocate` chooses."""
        self.remove(allocate(self.rules, scores, self.elements, grown))

    def remove(self, gone: Mapping[str, Tensor]) -> None:
        """Mask these units [units] of each parameter."""
        self.gone = {**self.gone, **{name: value.flatten().cpu() for name, value in gone.items()}}
        self._set({
            name: zeros
            for name, value in self.gone.items()
            for zeros in self.blocks[name].removed(value, self._shapes).values()
        })  # fmt: skip

    def load(self, masks: Mapping[str, Mapping[str, Any]]) -> None:
        """Take masks that were saved.

        Raises:
            InputError: a name is unknown or a shape does not fit.
        """
        zeros = {}
        for module, targets in masks.items():
            for target, mask in targets.items():
                name = child(module, target)
                if mask is None:
                    continue
                if name not in self._zeros:
                    raise InputError(f"masks: {name} is not masked by this pruner; it masks {', '.join(self.names)}")
                try:
                    zeros[name] = (torch.as_tensor(mask) == 0).expand(self._shapes[name]).cpu()
                except RuntimeError as error:
                    raise InputError(
                        f"masks: that of {name} has the shape {list(torch.as_tensor(mask).shape)}, not "
                        f"{list(self._shapes[name])}"
                    ) from error
        for name, value in zeros.items():
            if name in self.blocks:
                self.gone[name] = self.matrix(name, value).all(1)
        self._put(zeros)

    def _set(self, zeros: dict[str, Tensor]) -> None:
        for name, (source, axes) in self._followers.items():
            if source in zeros and name not in self.blocks:
                zeros[name] = _followed(zeros[source].expand(self._shapes[source]), axes, self._shapes[name])
        self._put(zeros)

    def _put(self, zeros: Mapping[str, Tensor]) -> None:
        self._zeros.update(zeros)
        if self.wrapped:
            for name in zeros:
                for gate in self._gates[name]:
                    gate.remove(self._zeros[name])

    @property
    def masks(self) -> Masks:
        found: Masks = {}
        for rule in self.rules:
            for target in (rule.target, *(target for target, _ in rule.followers)):
                name = child(rule.module, target)
                keep = (~self._zeros[name]).expand(self._shapes[name])
                found.setdefault(rule.module, {})[target] = keep.float()
        return found

    @property
    def sparsity(self) -> float:
        """The share of the elements of what the rules name that is masked."""
        total = sum(item.count * item.elements for item in self.blocks.values())
        return sum(int(self.gone[name].sum()) * item.elements for name, item in self.blocks.items()) / total


def _once(model: nn.Module, rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """One rule for each tensor: of tied ones the last rule holds."""
    tensors = tensors_of(model)
    last: dict[int, Rule] = {}
    for rule in rules:
        before = last.pop(id(tensors[rule.name]), None)
        if before is not None:
            log.warning("%s and %s are one tensor: the rule of %s holds", before.name, rule.name, rule.where)
        last[id(tensors[rule.name])] = rule
    return tuple(last.values())


def _blocks(model: nn.Module, rule: Rule, default: Literal["output", "element"]) -> Blocks:
    shape = tuple(tensors_of(model)[rule.name].shape)
    try:
        block = block_of(rule.granularity, model.get_submodule(rule.module), len(shape), default)
        return Blocks.of(rule.name, shape, block)
    except ValueError as error:
        raise InputError(f"{rule.where}: the granularity of {rule.name}: {error}") from error


def _followed(zeros: Tensor, axes: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    """Where a parameter is zero that shares ``axes`` with another one: where nothing of that one stays."""
    others = [axis for axis in range(zeros.ndim) if axis not in axes]
    kept = zeros.all(dim=others) if others else zeros
    return kept.reshape(shape)


def weight_scores(masking: Masking, formula: Any) -> dict[str, Tensor]:
    """Scores from the stored weights alone: ``formula`` takes [units, elements].

    Raises:
        InputError: a weight is NaN or infinite.
    """
    tensors = tensors_of(masking.model)
    found = {}
    with torch.no_grad():
        for name in masking.blocks:
            value = tensors[name].detach()
            if not bool(value.isfinite().all()):
                raise InputError(f"{name} holds NaN or infinite values, which cannot be compared")
            found[name] = formula(masking.matrix(name, value))
    return found
