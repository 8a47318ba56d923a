"""What is known about a tensor's axes: fields of labels, and how views carry them along.

A field is an array of the tensor's rank.  Along axes that it says nothing about it has size 1; an axis that no field
speaks about cannot be cut.  No two fields of one tensor speak about the same axis.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from gracile.channels.ties import FROZEN, Labels, Ties


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """Labels along one axis of a tensor, or jointly along several."""

    labels: Labels
    # Whether elements are exactly zero when the slices of parameters that carry their label are.
    zero: bool = False

    @property
    def axes(self) -> tuple[int, ...]:
        return tuple(axis for axis, size in enumerate(self.labels.shape) if size > 1)

    @property
    def compact(self) -> Labels:
        """The labels without the axes that the field says nothing about."""
        return self.labels.reshape([size for size in self.labels.shape if size > 1])


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A tensor of the program: its shape and its fields."""

    shape: tuple[int, ...]
    fields: tuple[Field, ...] = ()

    @property
    def rank(self) -> int:
        return len(self.shape)

    def on(self, axis: int) -> Field | None:
        """The field that speaks about ``axis``."""
        return next((field for field in self.fields if field.labels.shape[axis] > 1), None)


def along(labels: Labels, axis: int, rank: int) -> Labels:
    """One-dimensional labels as an array of ``rank`` axes."""
    shape = [1] * rank
    shape[axis] = labels.size
    return labels.reshape(shape)


def shrunk(labels: Labels) -> Labels:
    """Size 1 along every axis along which the labels are constant."""
    for axis in range(labels.ndim):
        if labels.shape[axis] > 1:
            first = labels.take([0], axis)
            if (labels == first).all():
                labels = first
    return labels


def mapped(value: Value, shape: tuple[int, ...], view: Callable[[Labels], Labels]) -> Value:
    """``value`` after a view that acts on the label arrays as on the tensor; silent axes have size 1 there."""
    fields = []
    for field in value.fields:
        labels = shrunk(view(field.labels))
        if labels.size > 1:
            fields.append(Field(labels, field.zero))
    return Value(shape, tuple(fields))


def permuted(value: Value, order: Iterable[int]) -> Value:
    axes = tuple(axis % value.rank for axis in order)
    return mapped(value, tuple(value.shape[axis] for axis in axes), lambda labels: labels.transpose(axes))


def reshaped(value: Value, shape: tuple[int, ...], ties: Ties) -> Value:
    """``value`` viewed in another shape of as many elements.

    Where two fields end on one axis, the larger stays and the other is frozen; fields of tensors go before fields
    of values that are constant along an axis.
    """
    blocks = _blocks(value.shape, shape)

    def view(labels: Labels) -> Labels:
        wide, result = list(labels.shape), [1] * len(shape)
        for before, after in blocks:
            if any(labels.shape[axis] > 1 for axis in before):
                for axis in before:
                    wide[axis] = value.shape[axis]
                for axis in after:
                    result[axis] = shape[axis]
        return np.broadcast_to(labels, wide).reshape(result)

    return without_overlap(mapped(value, shape, view), ties)


def without_overlap(value: Value, ties: Ties) -> Value:
    """Of fields that speak about one axis, keep the most useful; freeze the others."""
    kept: list[Field] = []
    for field in sorted(value.fields, key=lambda field: (ties.is_virtual(field.labels), -field.labels.size)):
        if any(set(field.axes) & set(other.axes) for other in kept):
            ties.freeze(field.labels, "merged with another axis by a view")
        else:
            kept.append(field)
    return Value(value.shape, tuple(kept))


def _blocks(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[range, range]]:
    """The smallest runs of axes that a reshape turns into each other."""
    blocks, i, j = [], 0, 0
    while i < len(before) and j < len(after):
        start = i, j
        left, right = before[i], after[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left, i = left * before[i], i + 1
            else:
                right, j = right * after[j], j + 1
        blocks.append((range(start[0], i), range(start[1], j)))
    return blocks


def forbid(field: Field, axis: int, reason: str, ties: Ties) -> None:
    """Keep ``axis`` whole: freeze a field of that axis alone, tie a joint one along it."""
    if field.labels.shape[axis] == 1:
        return
    if field.axes == (axis,):
        ties.freeze(field.labels, reason)
    else:
        ties.tie_along(field.labels, axis)


def forbid_axes(value: Value, axes: Iterable[int], reason: str, ties: Ties) -> Value:
    """Keep ``axes`` whole; the result says nothing about them."""
    chosen = {axis % value.rank for axis in axes}
    fields = []
    for field in value.fields:
        labels = field.labels
        for axis in chosen.intersection(field.axes):
            forbid(Field(labels), axis, reason, ties)
            labels = labels.take([0], axis)
        if labels.size > 1:
            fields.append(Field(labels, field.zero))
    return Value(value.shape, tuple(fields))


def freeze_all(value: Value, reason: str, ties: Ties) -> None:
    for field in value.fields:
        ties.freeze(field.labels, reason)


def single(value: Value, axis: int, reason: str, ties: Ties) -> Labels:
    """The labels along ``axis`` alone, joint ones tied along their other axes; zeros where there are none."""
    axis %= value.rank
    field = value.on(axis)
    if field is None:
        return np.full(value.shape[axis], FROZEN, dtype=np.int64)
    others = [other for other in field.axes if other != axis]
    return forbid_axes(Value(value.shape, (field,)), others, reason, ties).fields[0].labels.ravel()
