"""Units: what belongs to each, and where zeros belong when it goes."""

import numpy as np
import pytest
import torch

from gracile.channels import ChannelGroup, Member
from gracile.errors import InputError
from gracile.prune.units import Blocks, Channels

SHAPES = {"a": (4, 3), "b": (2, 4), "c": (4,), "square": (4, 4)}


def group(*members: tuple[str, int, list[list[int]]]) -> Channels:
    made = tuple(Member(tensor, axis, np.array(positions)) for tensor, axis, positions in members)
    return Channels(ChannelGroup("group", len(made[0].positions), made))


def test_channels_of_several_positions():
    units = group(("a", 0, [[0, 2], [1, 3]]), ("b", 1, [[0, 1], [2, 3]]))
    assert (units.name, units.count, units.tensors) == ("group", 2, ("a", "b"))
    [matrix] = units.matrices("a", torch.arange(12).reshape(4, 3))
    assert matrix.tolist() == [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]]
    [matrix] = units.matrices("b", torch.arange(8).reshape(2, 4))
    assert matrix.tolist() == [[0, 4, 1, 5], [2, 6, 3, 7]]
    zeros = units.removed(torch.tensor([False, True]), SHAPES)
    assert zeros["a"].tolist() == [[False], [True], [False], [True]]
    assert zeros["b"].tolist() == [[False, False, True, True]]


def test_a_tensor_that_is_cut_along_two_axes():
    units = group(("square", 0, [[0], [1], [2], [3]]), ("square", 1, [[0], [1], [2], [3]]))
    assert units.tensors == ("square",)
    assert len(units.matrices("square", torch.zeros(4, 4))) == 2
    zeros = units.removed(torch.tensor([True, False, False, False]), SHAPES)["square"]
    assert zeros.sum() == 7
    assert zeros[0].all()
    assert zeros[:, 0].all()


def test_axes_that_say_nothing_give_no_matrix():
    units = group(("square", 0, [[0], [1], [2], [3]]), ("square", 1, [[0], [1], [2], [3]]))
    [matrix] = units.matrices("square", torch.arange(4.0).reshape(1, 4))
    assert matrix.flatten().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("block", "count", "first", "zeros"),
    [
        ((1, 1), 12, [0], (1, 1)),
        ((2, 3), 2, [0, 1, 2, 3, 4, 5], (2, 3)),
        ((1,), 4, [0, 1, 2], (1, 3)),
        ((-1, 1), 3, [0, 3, 6, 9], (4, 1)),
        ((), 1, list(range(12)), (4, 3)),
    ],
)
def test_blocks(block, count, first, zeros):
    units = Blocks.of("a", (4, 3), block)
    assert (units.name, units.tensors, units.count, units.elements) == ("a", ("a",), count, 12 // count)
    [matrix] = units.matrices("a", torch.arange(12).reshape(4, 3))
    assert matrix.shape == (count, 12 // count)
    assert matrix[0].tolist() == first
    gone = torch.arange(count) == 0
    found = units.removed(gone, {})["a"].expand(4, 3)
    assert found.flatten().nonzero().flatten().tolist() == first
    assert found[: zeros[0], : zeros[1]].all()


def test_matrices_and_zeros_agree_on_every_block():
    value = torch.arange(2.0 * 6 * 4).reshape(2, 6, 4)
    units = Blocks.of("t", (2, 6, 4), (1, 2, 4))
    [matrix] = units.matrices("t", value)
    for place in range(units.count):
        zeros = units.removed(torch.arange(units.count) == place, {})["t"].expand(value.shape)
        assert value[zeros].tolist() == matrix[place].tolist()


@pytest.mark.parametrize("block", [(3, 1), (0, 1), (-2, 1), (1, 1, 1)])
def test_blocks_that_do_not_divide_are_refused(block):
    with pytest.raises(InputError, match=r"blocks of .* of the shape \[4, 4\]"):
        Blocks.of("w", (4, 4), block)
