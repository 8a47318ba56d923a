"""Operators on images and sequences: pooling, resizing, padding, windows, channels to space."""

# ruff: noqa: ARG001 - rules share one signature.

import numpy as np

from gracile.channels.fields import Field, Value, forbid_axes, mapped, permuted, reshaped
from gracile.channels.ties import Labels
from gracile.channels.walk import Arguments, Result, Rule, Walk, operator, place, shape_of
from gracile.graph import Node

_SPATIAL_AXES = {"1d": 1, "2d": 2, "3d": 3}


def _windowed(walk: Walk, node: Node, arguments: Arguments) -> Result:
    """Pooling and resizing: channel by channel, over the last axes."""
    value = walk.value(arguments.get("self", arguments.get("input")))
    axes = next(count for text, count in _SPATIAL_AXES.items() if text in operator(node))
    value = forbid_axes(value, range(-axes, 0), f"a spatial axis of {place(node)}", walk.ties)
    outputs = node.output if isinstance(node.output, tuple) else (node.output,)
    results = tuple(Value(spec.shape, value.fields) for spec in outputs)
    return results if isinstance(node.output, tuple) else results[0]


def _grid_sample(walk: Walk, node: Node, arguments: Arguments) -> Result:
    value, grid = walk.value(arguments["input"]), walk.value(arguments["grid"])
    reason = f"sampled by {place(node)}"
    forbid_axes(grid, range(grid.rank), reason, walk.ties)
    fixed = [axis for axis in range(value.rank) if axis != 1]
    return Value(shape_of(node), forbid_axes(value, fixed, reason, walk.ties).fields)


def _pad(walk: Walk, node: Node, arguments: Arguments) -> Result:
    """Zeros after the channels, as in parameter-free shortcuts, stay; other paddings of a labelled axis freeze it."""
    value, amounts = walk.value(arguments["self"]), arguments["pad"]
    pairs = list(zip(amounts[::2], amounts[1::2], strict=True))
    plain = arguments.get("mode", "constant") == "constant"
    for index, (before, after) in enumerate(pairs):
        axis = value.rank - 1 - index
        field = value.on(axis)
        if (before, after) == (0, 0) or field is None:
            continue
        if not plain or min(before, after) < 0 or len(field.axes) > 1:
            value = forbid_axes(value, [axis], f"padded by {place(node)}", walk.ties)
            continue
        widths = [(before, after) if place == axis else (0, 0) for place in range(value.rank)]
        zero = field.zero and not arguments.get("value")
        padded = Field(np.pad(field.labels, widths), zero)
        shape = tuple(size + before + after if place == axis else size for place, size in enumerate(value.shape))
        value = Value(shape, tuple(padded if item is field else item for item in value.fields))
    return Value(shape_of(node), value.fields)


def _reshaping(walk: Walk, value: Value, wide: list[int], order: list[int], shape: tuple[int, ...]) -> Value:
    """A view, a permutation and a view."""
    split = reshaped(value, tuple(wide), walk.ties)
    return reshaped(permuted(split, order), shape, walk.ties)


def _pixel_shuffle(walk: Walk, node: Node, arguments: Arguments) -> Result:
    value, shape = walk.value(arguments["self"]), shape_of(node)
    rank, factor = value.rank - 3, arguments["upscale_factor"]
    *lead, channels, height, width = value.shape
    wide = [*lead, channels // factor**2, factor, factor, height, width]
    order = [*range(rank), *(rank + axis for axis in (0, 3, 1, 4, 2))]
    _keep_blocks(walk, value, tuple(wide), (rank + 1, rank + 2), place(node))
    return _reshaping(walk, value, wide, order, shape)


def _keep_blocks(walk: Walk, value: Value, wide: tuple[int, ...], axes: tuple[int, ...], op: str) -> None:
    """Channels that become one pixel's surroundings can only go together."""
    forbid_axes(reshaped(value, wide, walk.ties), axes, f"becomes a spatial axis in {op}", walk.ties)


def _pixel_unshuffle(walk: Walk, node: Node, arguments: Arguments) -> Result:
    value, shape = walk.value(arguments["self"]), shape_of(node)
    rank, factor = value.rank - 3, arguments["downscale_factor"]
    *lead, channels, height, width = value.shape
    wide = [*lead, channels, height // factor, factor, width // factor, factor]
    order = [*range(rank), *(rank + axis for axis in (0, 2, 4, 1, 3))]
    return _reshaping(walk, value, wide, order, shape)


def _channel_shuffle(walk: Walk, node: Node, arguments: Arguments) -> Result:
    value, groups = walk.value(arguments["self"]), arguments["groups"]
    first, channels, *rest = value.shape
    wide = [first, groups, channels // groups, *rest]
    split = reshaped(value, tuple(wide), walk.ties)
    for field in split.fields:
        if len(field.axes) > 1:
            walk.ties.joint(field.compact)
    return reshaped(permuted(split, [0, 2, 1, *range(3, len(wide))]), value.shape, walk.ties)


def _im2col(walk: Walk, node: Node, arguments: Arguments) -> Result:
    """[..., C, H, W] -> [..., C x kernel, positions]"""
    value, shape = walk.value(arguments["self"]), shape_of(node)
    value = forbid_axes(value, (-1, -2), f"a spatial axis of {place(node)}", walk.ties)
    channel, times = value.rank - 3, shape[-2] // value.shape[-3]

    def repeated(labels: Labels) -> Labels:
        flat = labels.squeeze(-1)
        return flat.repeat(times, channel) if flat.shape[channel] > 1 else flat

    return mapped(value, shape, repeated)


def _col2im(walk: Walk, node: Node, arguments: Arguments) -> Result:
    """[..., C x kernel, positions] -> [..., C, H, W]; each channel goes whole."""
    value, shape = walk.value(arguments["self"]), shape_of(node)
    value = forbid_axes(value, (-1,), f"a spatial axis of {place(node)}", walk.ties)
    channels, times = shape[-3], value.shape[-2] // shape[-3]
    wide = (*value.shape[:-2], channels, times, value.shape[-1])
    split = forbid_axes(reshaped(value, wide, walk.ties), (-2,), f"a spatial axis of {place(node)}", walk.ties)
    return Value(shape, split.fields)


def _unfold(walk: Walk, node: Node, arguments: Arguments) -> Result:
    """Sliding windows along one axis, a new last axis."""
    value = forbid_axes(walk.value(arguments["self"]), [arguments["dimension"]], f"windows of {place(node)}", walk.ties)
    return mapped(value, shape_of(node), lambda labels: labels[..., None])


_WINDOWS = """
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d max_pool2d_with_indices
    max_pool3d_with_indices upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d
    upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d _upsample_bicubic2d_aa _upsample_bilinear2d_aa
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d _adaptive_avg_pool2d
    reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d
"""

RULES: dict[str, Rule] = {
    **dict.fromkeys(_WINDOWS.split(), _windowed),
    "grid_sampler": _grid_sample,
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "channel_shuffle": _channel_shuffle,
    "im2col": _im2col,
    "col2im": _col2im,
    "unfold": _unfold,
}
