"""What arithmetic does with fields: element-wise meetings, sums along an axis, products."""

from collections.abc import Iterable, Sequence
from typing import Literal

from gracile.channels.fields import Field, Value, forbid, permuted
from gracile.channels.ties import Labels, Ties

# When an element of the result is zero: if all operands are ("all", as in sums), if one is ("any", as in products),
# or if the first is ("first", as in quotients).
Zero = Literal["all", "any", "first", "never"]


def meet(values: Sequence[Value], op: str, zero: Zero, ties: Ties) -> Value:
    """The fields of an element-wise function of ``values``, which broadcast."""
    rank = max(value.rank for value in values)
    aligned = [_aligned(value, rank) for value in values]
    shape = tuple(max(value.shape[axis] for value in aligned) for axis in range(rank))
    fields = []
    for axes in _clusters(aligned):
        field = _met(aligned, shape, axes, op, zero, ties)
        if field is not None:
            fields.append(field)
    return Value(shape, tuple(fields))


def contract(
    value: Value, axes: Iterable[int], op: str, ties: Ties, *, reduced: bool = False, keepdim: bool = False
) -> Value:
    """The fields of the sum of ``value`` along ``axes``.

    Removing an index changes nothing where its elements are zero; otherwise the axis is kept whole.
    """
    chosen = tuple(axis % value.rank for axis in axes)
    fields = []
    for field in value.fields:
        left = _summed(field, chosen, op, ties, reduced) if set(chosen) & set(field.axes) else field
        if left is not None:
            fields.append(Field(left.labels if keepdim else left.labels.squeeze(chosen), left.zero))
    shape = [1 if axis in chosen else size for axis, size in enumerate(value.shape)]
    if not keepdim:
        shape = [size for axis, size in enumerate(shape) if axis not in chosen]
    return Value(tuple(shape), tuple(fields))


def product(values: Sequence[Value], terms: Sequence[str], result: str, op: str, ties: Ties) -> Value:
    """The fields of an Einstein sum: ``terms`` has a letter for each axis of each value."""
    letters = "".join(dict.fromkeys("".join(terms)))
    wide = meet([_spread(value, term, letters) for value, term in zip(values, terms, strict=True)], op, "any", ties)
    summed = [letters.index(letter) for letter in letters if letter not in result]
    if summed:
        wide = contract(wide, summed, op, ties, reduced=len(values) == 1)
    letters = "".join(letter for letter in letters if letter in result)
    return permuted(wide, [letters.index(letter) for letter in result])


def _spread(value: Value, term: str, letters: str) -> Value:
    """``value`` with its axes in the order of ``letters``, size 1 for those it lacks."""
    ordered = permuted(value, [term.index(letter) for letter in letters if letter in term])
    places = [letters.index(letter) for letter in letters if letter in term]

    def widened(shape: Sequence[int]) -> tuple[int, ...]:
        sizes = [1] * len(letters)
        for place, size in zip(places, shape, strict=True):
            sizes[place] = size
        return tuple(sizes)

    fields = tuple(Field(field.labels.reshape(widened(field.labels.shape)), field.zero) for field in ordered.fields)
    return Value(widened(ordered.shape), fields)


def _aligned(value: Value, rank: int) -> Value:
    ones = (1,) * (rank - value.rank)
    fields = tuple(Field(field.labels.reshape(ones + field.labels.shape), field.zero) for field in value.fields)
    return Value(ones + value.shape, fields)


def _clusters(values: Sequence[Value]) -> list[set[int]]:
    """Sets of axes that fields of any of the values connect."""
    clusters: list[set[int]] = []
    for value in values:
        for field in value.fields:
            axes = set(field.axes)
            joined = [cluster for cluster in clusters if cluster & axes]
            clusters = [cluster for cluster in clusters if not cluster & axes]
            clusters.append(axes.union(*joined))
    return clusters


def _met(
    values: Sequence[Value], shape: tuple[int, ...], axes: set[int], op: str, zero: Zero, ties: Ties
) -> Field | None:
    """Tie the fields on ``axes``; the field of the result, or None where they cannot be reconciled."""
    fields = [[field for field in value.fields if axes & set(field.axes)] for value in values]
    base = next((field for found in fields for field in found if set(field.axes) == axes), None)
    if base is None:
        for field in (field for found in fields for field in found):
            ties.freeze(field.labels, f"axes are mixed by {op}")
        return None
    for field in (field for found in fields for field in found):
        if field.axes == base.axes:
            ties.tie(base.labels, field.labels)
        else:
            _tie_marginal(base, field, op, ties)
    for value, found in zip(values, fields, strict=True):
        covered = {axis for field in found for axis in field.axes}
        for axis in axes - covered:
            if value.shape[axis] == shape[axis]:
                forbid(base, axis, f"meets a fixed axis in {op}", ties)
    return Field(base.labels, _vanishes(fields, base, zero))


def _tie_marginal(base: Field, field: Field, op: str, ties: Ties) -> None:
    places = tuple(base.axes.index(axis) for axis in field.axes)
    ties.marginal(base.compact, places, field.compact, f"spans several channels in {op}")


def _vanishes(fields: Sequence[Sequence[Field]], base: Field, zero: Zero) -> bool:
    zeros = [any(field.zero and field.axes == base.axes for field in found) for found in fields]
    match zero:
        case "all":
            return all(zeros)
        case "any":
            return any(zeros)
        case "first":
            return zeros[0]
    return False


def _summed(field: Field, chosen: tuple[int, ...], op: str, ties: Ties, reduced: bool) -> Field | None:
    """What a field says after a sum along ``chosen``, which keep size 1; None for nothing."""
    axes = [axis for axis in field.axes if axis in chosen]
    if len(axes) == len(field.axes):
        if not field.zero:
            ties.freeze(field.labels, f"{op} over channels that do not vanish")
        return None
    compact = field.compact
    places = [field.axes.index(axis) for axis in axes]
    for place in places:
        if not field.zero:
            ties.tie_along(compact, place)
        ties.joint(compact, contracted=place, reduced=reduced)
    others = tuple(place for place in range(compact.ndim) if place not in places)
    left: Labels = ties.fresh(*(compact.shape[place] for place in others))
    ties.marginal(compact, others, left, f"spans several channels in {op}")
    shape = [1 if axis in chosen else size for axis, size in enumerate(field.labels.shape)]
    return Field(left.reshape(shape), field.zero)
