"""Which channels masks leave without use, by hand for each way of wiring."""

import pytest
import topologies
import torch
from dependent_nets import TOPOLOGIES, conv
from torch import Tensor, nn

from gracile.channels import channel_groups
from gracile.graph import capture
from gracile.prune.removable import removable


def keeps_of(model: nn.Module, masked: dict[str, tuple[int, list[int]]]) -> dict[str, Tensor]:
    """Tensor -> a mask without the given indices of the given axis."""
    found = {}
    for name, (axis, indices) in masked.items():
        tensor = dict(model.named_parameters())[name]
        keep = torch.ones(tensor.shape, dtype=torch.bool)
        keep.movedim(axis, 0)[indices] = False
        found[name] = keep
    return found


def freed(model: nn.Module, inputs: Tensor, **masked: tuple[int, list[int]]) -> dict[str, list[int]]:
    graph = capture(model, inputs)
    named = {name.replace("__", "."): value for name, value in masked.items()}
    return removable(graph, channel_groups(graph), keeps_of(model, named))


def free(name: str, **masked: tuple[int, list[int]]) -> dict[str, list[int]]:
    return freed(*TOPOLOGIES[name](), **masked)


def test_writer_or_reader_alone_is_enough():
    assert free("chain", body__0__0__weight=(0, [1, 5])) == {"body.0.0": [1, 5]}
    assert free("chain", body__1__0__weight=(1, [1, 5])) == {"body.0.0": [1, 5]}
    assert free("chain", body__0__0__weight=(0, [1]), body__1__0__weight=(1, [5])) == {"body.0.0": [1, 5]}


def test_what_is_added_frees_nothing():
    assert free("chain", body__0__0__bias=(0, [1]), body__0__1__bias=(0, [1])) == {}


def test_scales_of_batch_norms_stop_a_channel():
    """As network slimming masks them."""
    assert free("chain", body__0__1__weight=(0, [1, 2])) == {"body.0.0": [1, 2]}
    assert free("concat", body__left__1__weight=(0, [3])) == {"body.left.0": [3]}
    # The right branch, which has no norm, still adds to it.
    assert free("residual", body__stem__1__weight=(0, [1])) == {}
    both = {"body__stem__1__weight": (0, [1]), "body__right__weight": (0, [1, 2])}
    assert free("residual", **both) == {"body.stem.0": [1]}
    # Group norms look at all channels at once.
    assert free("group_norm", body__1__weight=(0, list(range(12)))) == {}


def test_factors_that_are_parameters_stop_a_channel():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
            self.scale, self.shift = nn.Parameter(torch.ones(4, 1, 1)), nn.Parameter(torch.ones(4, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.scale * self.stem(x) + self.shift)

    inputs = torch.randn(2, 3, 4, 4)
    assert freed(Scaled(), inputs, scale=(0, [1])) == {"scale": [1]}
    assert freed(Scaled(), inputs, shift=(0, [1])) == {}
    assert freed(Scaled(), inputs, stem__weight=(0, [1])) == {"scale": [1]}


def test_one_channel_stays():
    assert free("chain", body__0__0__weight=(0, list(range(8)))) == {"body.0.0": [1, 2, 3, 4, 5, 6, 7]}


def test_both_summands_must_be_masked():
    assert free("residual", body__stem__0__weight=(0, [1, 2])) == {}
    assert free("residual", body__right__weight=(0, [1, 2])) == {}
    both = {"body__stem__0__weight": (0, [1, 2]), "body__right__weight": (0, [2, 3])}
    assert free("residual", **both) == {"body.stem.0": [2]}


def test_all_readers_must_be_masked():
    assert free("residual", head__weight=(1, [1])) == {}
    assert free("residual", body__left__0__weight=(1, [1])) == {}
    both = {"body__left__0__weight": (1, [1]), "head__weight": (1, [1, 2])}
    assert free("residual", **both) == {"body.stem.0": [1]}


def test_inner_channels_of_a_residual_block_are_their_own():
    assert free("residual", body__left__0__weight=(0, [7])) == {"body.left.0": [7]}


def test_concatenated_channels_are_found_at_their_place():
    assert free("concat", body__left__0__weight=(0, [2])) == {"body.left.0": [2]}
    # 6 channels stand left.
    assert free("concat", body__join__0__weight=(1, [2, 8])) == {"body.left.0": [2], "body.right.0": [2]}


def test_a_layer_that_adds_to_its_own_input_is_read_by_itself():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.block, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.last(x + self.block(x))

    inputs = torch.randn(2, 3, 4, 4)
    assert freed(Own(), inputs, stem__weight=(0, [1])) == {}
    assert freed(Own(), inputs, stem__weight=(0, [1]), block__weight=(0, [1])) == {"stem": [1]}
    # The block would still read channel 1 of the stem.
    assert freed(Own(), inputs, last__weight=(1, [1])) == {}
    assert freed(Own(), inputs, last__weight=(1, [1]), block__weight=(1, [1])) == {"stem": [1]}


@pytest.mark.parametrize("place", [0, 1, 2])
def test_before_in_and_behind_a_depthwise_convolution(place):
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(), nn.Conv2d(6, 4, 1))
    name, axis = [("0__weight", 0), ("1__weight", 0), ("3__weight", 1)][place]
    assert freed(model, torch.randn(2, 3, 6, 6), **{name: (axis, [0, 4])}) == {"0": [0, 4]}


def test_a_depthwise_convolution_that_is_bypassed_frees_nothing():
    class Bypassed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.deep, self.last = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1, groups=6), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.last(x + self.deep(x))

    inputs = torch.randn(2, 3, 4, 4)
    assert freed(Bypassed(), inputs, deep__weight=(0, [1])) == {}
    assert freed(Bypassed(), inputs, stem__weight=(0, [1])) == {"stem": [1]}


def test_channels_with_several_positions_go_when_all_are_masked():
    assert free("depthwise", body__1__0__weight=(0, [4])) == {}
    assert free("depthwise", body__1__0__weight=(0, [4, 5])) == {"body.0.0": [2]}
    first = [*range(36), *range(72, 107)]
    assert free("flatten_linear", hidden__weight=(1, first)) == {"conv.0": [0]}


def test_outputs_of_transposed_convolutions_stand_second():
    model = nn.Sequential(nn.ConvTranspose2d(3, 6, 2), nn.ReLU(), nn.ConvTranspose2d(6, 4, 2), nn.Conv2d(4, 2, 1))
    inputs = torch.randn(2, 3, 6, 6)
    assert freed(model, inputs, **{"0__weight": (1, [2])}) == {"0": [2]}
    assert freed(model, inputs, **{"2__weight": (0, [2])}) == {"0": [2]}
    assert freed(model, inputs, **{"2__weight": (1, [2])}) == {"2": [2]}


@pytest.mark.parametrize("model", [conv(3, 6), nn.Sequential(nn.Conv2d(3, 6, 1), nn.PReLU(6))])
def test_channels_behind_other_modules(model):
    model = nn.Sequential(model, nn.MaxPool2d(2), nn.Conv2d(6, 2, 1)).eval()
    assert freed(model, torch.randn(2, 3, 4, 4), **{"0__0__weight": (0, [3])}) == {"0.0": [3]}


def test_whole_heads():
    rows = (0, [4, 5, 6, 7])
    assert free("unpacked", query__weight=rows, key__weight=rows, value__weight=rows) == {"query": [1]}
    assert free("unpacked", query__weight=rows, key__weight=rows) == {}
    assert free("unpacked", out__weight=(1, [4, 5, 6, 7])) == {"query": [1]}
    assert free("unpacked", out__weight=(1, [4, 5, 6])) == {}
    packed = (0, [*range(4, 8), *range(20, 24), *range(36, 40)])
    assert free("packed", qkv__weight=packed) == {"qkv": [1]}
    assert free("transformer_layer", layer__self_attn__in_proj_weight=packed) == {"layer.self_attn": [1]}


def test_tables_that_are_added_write_too():
    stem = {
        "stem__weight": (0, [1]),
        "layer__self_attn__out_proj__weight": (0, [1]),
        "layer__linear2__weight": (0, [1]),
    }
    assert free("transformer_layer", **stem) == {}
    tables = {"token": (2, [1]), "place": (2, [1])}
    assert free("transformer_layer", **stem, **tables) == {"token": [1]}


def test_embeddings_write_and_tied_heads_read():
    rows = {"back__weight": (0, [1]), "embedding__weight": (1, [1])}
    assert free("tied_embedding", back__weight=(0, [1])) == {}
    assert free("tied_embedding", **rows) == {"embedding": [1]}


def test_hidden_units_of_recurrent_layers():
    model = topologies.Recurrent(nn.LSTM)
    model.head = nn.Linear(6, 3)
    gates = (0, [1, 7, 13, 19])
    inputs = torch.randn(2, 5, 8)
    assert freed(model, inputs, recurrent__weight_ih_l0=gates) == {}
    [(_, channels)] = freed(model, inputs, recurrent__weight_ih_l0=gates, recurrent__weight_hh_l0=gates).items()
    assert channels == [1]
    assert freed(model, inputs, head__weight=(1, [1])) == {}
    [(_, channels)] = freed(model, inputs, head__weight=(1, [1]), recurrent__weight_hh_l0=(1, [1])).items()
    assert channels == [1]
