"""Tensors in single precision that compute as float64, a piece at a time.

Showing that a cut is exact takes float64.  A copy of the model in float64 would take twice its memory, and another one
with zeros twice more.  A `Wide` stands for such a copy and shares the memory of the model's own tensor: what is
computed from it is computed in float64 from values that are converted piece by piece; slices and zeros are noted, and
made when they are needed.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

# So many elements are in float64 at once: 8 MiB.
PIECE = 1 << 20

_aten = torch.ops.aten
# For each axis a tensor of indices or of booleans; None where there is nothing to say.
_Axes: TypeAlias = tuple[Tensor | None, ...]


class Wide(Tensor):
    """A float64 tensor that is kept as another one in less precision, to be sliced and partly zeroed.

    It can be read only: an operator that would write into it raises RuntimeError.
    """

    # Plain attributes of the instances.
    _own: Tensor
    _kept: _Axes
    _zeroed: _Axes

    @staticmethod
    def __new__(cls, own: Tensor, kept: _Axes | None = None, zeroed: _Axes | None = None) -> "Wide":
        """Stands for ``own``; of each axis the indices ``kept``, with zeros where ``zeroed`` is True."""
        nothing = (None,) * own.ndim
        kept, zeroed = kept or nothing, zeroed or nothing
        shape = [size if index is None else len(index) for size, index in zip(own.shape, kept, strict=True)]
        made: Wide = Tensor._make_wrapper_subclass(cls, shape, dtype=torch.float64, device=own.device)
        made._own, made._kept, made._zeroed = own.detach(), kept, zeroed
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Wide({list(self.shape)})"

    # Otherwise torch's functions take ways of their own for it.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        kwargs = kwargs or {}
        rule = _RULES.get(func)
        result = NotImplemented if rule is None else rule(*args, **kwargs)
        if result is not NotImplemented:
            return result
        if func._schema.is_mutable and any(isinstance(item, Wide) for item in _written(func, args, kwargs)):
            raise RuntimeError(f"{func} writes into a parameter or buffer, which is there for reading only")
        args, kwargs = whole((args, kwargs))
        return func(*args, **kwargs)

    def part(self, axis: int = 0, start: int = 0, stop: int | None = None) -> Tensor:
        """The values from ``start`` to ``stop`` along an axis, in float64."""
        stop = self.shape[axis] if stop is None else stop
        index = self._kept[axis]
        # This axis first: what the others are taken from is small then.
        if index is None:
            value = self._own.narrow(axis, start, stop - start)
        else:
            value = self._own.index_select(axis, index[start:stop])
        for place, keep in enumerate(self._kept):
            if keep is not None and place != axis:
                value = value.index_select(place, keep)
        value = value.to(torch.float64, memory_format=torch.contiguous_format)
        for place, zeros in enumerate(self._zeroed):
            if zeros is not None:
                shape = [-1 if place == other else 1 for other in range(value.ndim)]
                value.masked_fill_((zeros[start:stop] if place == axis else zeros).reshape(shape), 0)
        return value

    def parts(self, axis: int) -> Iterator[tuple[slice, Tensor]]:
        """All values along an axis, in pieces of at most about `PIECE` elements, with where they lie."""
        size = self.shape[axis]
        step = max(1, PIECE * size // max(1, self.numel()))
        for start in range(0, size, step):
            stop = min(size, start + step)
            yield slice(start, stop), self.part(axis, start, stop)


def whole(values: Any) -> Any:
    """``values`` with plain tensors in place of every `Wide` inside."""
    return pytree.tree_map_only(Wide, lambda item: item.part() if item.ndim else item._own.double(), values)


@contextmanager
def hollow(model: nn.Module) -> Iterator[None]:
    """``model`` with plain float64 tensors without values in place of every `Wide` inside the block: to be captured.

    Nothing reads them, so that no memory stands behind them.
    """
    before: list[tuple[Any, str, Tensor]] = []
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            before += [(held, name, item) for name, item in held.items() if isinstance(item, Wide)]
    try:
        for held, name, item in before:
            if id(item) not in made:
                empty = torch.empty(item.shape, dtype=item.dtype, device=item.device)
                made[id(item)] = nn.Parameter(empty, item.requires_grad) if isinstance(item, nn.Parameter) else empty
            held[name] = made[id(item)]
        yield
    finally:
        for held, name, item in before:
            held[name] = item


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterable[Any]:
    """The arguments that an operator writes into."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield args[place] if place < len(args) else kwargs.get(argument.name)


def _same(item: Wide) -> Wide:
    return Wide(item._own, item._kept, item._zeroed)


def _permuted(item: Wide, order: Iterable[int]) -> Wide:
    axes = [axis % item.ndim for axis in order]
    kept, zeroed = (tuple(marks[axis] for axis in axes) for marks in (item._kept, item._zeroed))
    return Wide(item._own.permute(axes), kept, zeroed)


def _transposed(item: Wide, first: int = 0, second: int = 1) -> Any:
    if item.ndim < 2:
        return NotImplemented
    order = list(range(item.ndim))
    order[first], order[second] = order[second], order[first]
    return _permuted(item, order)


def _index_select(item: Any, axis: int, index: Tensor) -> Any:
    if not isinstance(item, Wide) or not item.ndim:
        return NotImplemented
    axis %= item.ndim
    kept, zeroed = list(item._kept), list(item._zeroed)
    before, zeros = kept[axis], zeroed[axis]
    kept[axis] = index if before is None else before[index]
    zeroed[axis] = None if zeros is None else zeros[index]
    return Wide(item._own, tuple(kept), tuple(zeroed))


def _masked_fill(item: Any, mask: Tensor, value: Any) -> Any:
    axes = [axis for axis, size in enumerate(mask.shape) if size > 1]
    if not isinstance(item, Wide) or value != 0 or mask.ndim != item.ndim or len(axes) != 1:
        return NotImplemented
    [axis] = axes
    zeroed = list(item._zeroed)
    before = zeroed[axis]
    zeroed[axis] = mask.ravel() if before is None else before | mask.ravel()
    return Wide(item._own, item._kept, tuple(zeroed))


def _embedding(table: Any, index: Any, *_: Any, **__: Any) -> Any:
    if not isinstance(table, Wide) or isinstance(index, Wide):
        return NotImplemented
    rows: Wide = _index_select(table, 0, index.ravel())
    return rows.part().reshape(*index.shape, table.shape[1])


def _mm(left: Any, right: Any) -> Any:
    return _products(left, right, lambda a, b, _columns: a @ b)


def _addmm(bias: Any, left: Any, right: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    if isinstance(bias, Wide) or bias.ndim != 1:
        return NotImplemented
    # A bias of a single element is one for all columns.
    return _products(
        left,
        right,
        lambda a, b, columns: torch.addmm(bias if len(bias) == 1 else bias[columns], a, b, beta=beta, alpha=alpha),
    )


def _products(left: Any, right: Any, product: Callable[[Tensor, Tensor, slice], Tensor]) -> Any:
    """Left @ right, for some columns of ``right`` at a time."""
    if not isinstance(right, Wide):
        return NotImplemented
    left = whole(left)
    out = left.new_empty(left.shape[0], right.shape[1], dtype=torch.float64)
    for columns, piece in right.parts(1):
        out[:, columns] = product(left, piece, columns)
    return out


def _convolution(data: Any, weight: Any, bias: Any, *options: Any) -> Any:
    transposed, groups = options[3], options[5]
    if not isinstance(weight, Wide) or isinstance(bias, Wide) or isinstance(data, Wide) or groups != 1:
        return NotImplemented
    pieces = [
        _aten.convolution.default(data, piece, None if bias is None else bias[outputs], *options)
        for outputs, piece in weight.parts(1 if transposed else 0)
    ]
    return torch.cat(pieces, dim=1 if data.ndim == weight.ndim else 0)


_RULES: dict[Any, Callable[..., Any]] = {
    _aten.detach.default: _same,
    _aten.alias.default: _same,
    _aten.t.default: _transposed,
    _aten.transpose.int: _transposed,
    _aten.permute.default: _permuted,
    _aten.index_select.default: _index_select,
    _aten.masked_fill.Scalar: _masked_fill,
    _aten.embedding.default: _embedding,
    _aten.mm.default: _mm,
    _aten.addmm.default: _addmm,
    _aten.convolution.default: _convolution,
}
