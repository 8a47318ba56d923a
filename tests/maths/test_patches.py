"""Patches against torch's own unfold."""

import torch
from torch.nn import functional as F

from gracile.maths.factorize import LayerShape
from gracile.maths.patches import as_batch, mean_patch, padded, vectors

SHAPE = LayerShape(
    inputs=3, outputs=2, kernel=(2, 3), stride=(2, 1), dilation=(1, 2), padding=((1, 1), (2, 2)), groups=1
)  # fmt: skip


def unfolded(data: torch.Tensor) -> torch.Tensor:
    patches = F.unfold(data, (2, 3), dilation=(1, 2), padding=(1, 2), stride=(2, 1))
    return patches.transpose(1, 2).reshape(-1, 18)


def test_vectors_are_the_rows_of_unfold():
    data = torch.randn(2, 3, 5, 7)
    assert torch.equal(vectors(padded(data, SHAPE, range(2)), SHAPE, range(2)), unfolded(data))


def test_vectors_times_the_weight_are_the_layer():
    data, weight = torch.randn(2, 3, 5, 7), torch.randn(2, 3, 2, 3)
    made = F.conv2d(data, weight, stride=(2, 1), padding=(1, 2), dilation=(1, 2))
    rows = vectors(padded(data, SHAPE, range(2)), SHAPE, range(2)) @ weight.flatten(1).T
    torch.testing.assert_close(rows, made.movedim(1, -1).flatten(0, -2))


def test_the_mean_patch_is_the_mean_of_unfold():
    data = torch.randn(4, 3, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(mean_patch(padded(data, SHAPE, range(2)), SHAPE).flatten(), unfolded(data).mean(0))


def test_a_linear_layer_reads_its_inputs_as_they_are():
    shape = LayerShape(inputs=5, outputs=2)
    data = torch.randn(2, 3, 5)
    rows = as_batch(data, shape)
    assert torch.equal(vectors(rows, shape, ()), data.reshape(6, 5))
    torch.testing.assert_close(mean_patch(rows, shape), data.double().reshape(6, 5).mean(0))


def test_vertical_vectors_keep_all_columns():
    data = torch.randn(1, 3, 4, 7)
    shape = LayerShape(inputs=3, outputs=1, kernel=(3, 3), stride=(1, 1), dilation=(1, 1), padding=((0, 0), (0, 0)))
    rows = vectors(data, shape, [0])
    assert rows.shape == (2 * 7, 9)
    assert torch.equal(rows[8], data[0, :, 1:4, 1].flatten())
