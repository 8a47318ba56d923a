"""Masks from scores, against results worked out by hand."""

import pytest
import torch
from torch import tensor

from gracile.errors import InputError
from gracile.maths.sparse import keep_balanced, keep_globally, keep_largest, keep_n_of_m


def test_the_smallest_go_and_of_equal_ones_the_first():
    scores = tensor([3.0, 1.0, 2.0, 1.0, 1.0])
    # floor(5 * 0.5) = 2 of the three ones.
    assert keep_largest(scores, 0.5).tolist() == [True, False, True, False, True]
    assert keep_largest(torch.ones(4, 2), 0.25).tolist() == [[False, False], *[[True, True]] * 3]


@pytest.mark.parametrize(("count", "sparsity", "gone"), [(10, 0.3, 3), (10, 0.7, 7), (10, 0.29, 2), (3, 0.99, 2)])
def test_a_share_of_a_whole_number_is_one(count, sparsity, gone):
    assert int((~keep_largest(torch.randn(count), sparsity)).sum()) == gone


def test_nothing_and_everything():
    assert keep_largest(tensor([1.0, 2.0]), 0.0).all()
    assert not keep_largest(tensor([1.0, 2.0]), 1.0).any()


def test_one_threshold_over_several_tensors():
    scores = [tensor([1.0, 5.0, 6.0]), tensor([[2.0, 3.0], [7.0, 8.0]])]
    first, second = keep_globally(scores, [1, 1], 3 / 7)
    assert first.tolist() == [False, True, True]
    assert second.tolist() == [[False, False], [True, True]]


def test_units_count_by_their_elements():
    """16 elements, of which at most 8 go: 1 (of 4 elements), 2 (1), then 3 (4) would make 9."""
    first, second = keep_globally([tensor([3.0, 1.0, 9.0]), tensor([2.0, 4.0, 5.0, 6.0])], [4, 1], 0.5)
    assert first.tolist() == [True, False, True]
    assert second.tolist() == [False, True, True, True]


def test_no_tensor_loses_more_than_the_cap_and_the_others_make_up_for_it():
    scores = [tensor([1.0, 2.0, 3.0, 4.0]), tensor([5.0, 6.0, 7.0, 8.0])]
    first, second = keep_globally(scores, [1, 1], 0.5)
    assert (int(first.sum()), int(second.sum())) == (0, 4)
    first, second = keep_globally(scores, [1, 1], 0.5, 0.5)
    assert first.tolist() == [False, False, True, True]
    assert second.tolist() == [False, False, True, True]


def test_ties_between_tensors_go_in_their_order():
    first, second = keep_globally([torch.ones(2), torch.ones(2)], [1, 1], 0.75)
    assert first.tolist() == [False, False]
    assert second.tolist() == [False, True]


def test_n_of_m_along_the_last_axis():
    scores = tensor([[1.0, 4.0, 3.0, 2.0, 8.0, 7.0, 6.0, 5.0], [0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 2.0]])
    assert keep_n_of_m(scores, 2, 4).int().tolist() == [[0, 1, 1, 0, 1, 1, 0, 0], [0, 0, 1, 1, 1, 0, 0, 1]]
    assert keep_n_of_m(scores, 1, 2).int().tolist() == [[0, 1, 1, 0, 1, 0, 1, 0], [0, 1, 0, 1, 1, 0, 0, 1]]
    with pytest.raises(InputError, match="2:4 sparsity needs an axis that 4 divides, not one of size 6"):
        keep_n_of_m(torch.ones(2, 6), 2, 4)


def test_each_tile_loses_the_same_number():
    scores = torch.arange(24.0).reshape(4, 6)
    found = keep_balanced(scores, (2, 3), 0.5)
    # The first tile holds 0, 1, 2, 6, 7, 8: the three smallest go.
    assert found[:2].int().tolist() == [[0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]]
    assert torch.equal(found[:2], found[2:])
    # 10 of each 5 x 5 at 0.6, as Yao et al. have it.
    kept = keep_balanced(torch.randn(10, 15), (5, 5), 0.6)
    assert kept.reshape(2, 5, 3, 5).sum((1, 3)).tolist() == [[10] * 3] * 2


def test_tiles_lie_along_the_last_axes():
    scores = torch.randn(3, 2, 4)
    assert torch.equal(keep_balanced(scores, (4,), 0.5), keep_balanced(scores, (1, 1, 4), 0.5))
    assert keep_balanced(scores, (4,), 0.5).sum(-1).tolist() == [[2, 2]] * 3


@pytest.mark.parametrize("tile", [(4,), (2, 5), (1, 1, 1, 1)])
def test_tiles_that_do_not_divide_are_refused(tile):
    with pytest.raises(InputError, match=r"do not divide a tensor of the shape \[4, 6\]"):
        keep_balanced(torch.ones(4, 6), tile, 0.5)
