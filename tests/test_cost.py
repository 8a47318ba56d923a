"""MACs against values worked out by hand, parameters, bytes, and what is not counted."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from topologies import TOPOLOGIES, GroupedQueryAttention, Shared, TiedLanguageModel
from torch import Tensor, nn

from gracile.cost import METRICS, Cost, price, profile, resized
from gracile.errors import CaptureError
from gracile.graph import capture
from gracile.maths.factorize import LayerShape


class Calls(nn.Module):
    """A model whose forward is a function of its inputs."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


def ones(*shape: int) -> Tensor:
    return torch.ones(*shape)


def whole(model: nn.Module, *inputs: Tensor) -> int:
    """MACs of the whole call, batch included."""
    cost = profile(model, inputs)
    return sum(operation.macs for operation in cost.operations)


# Convolutions: output channels * output positions * input channels of a group * kernel


@pytest.mark.parametrize(
    ("layer", "size", "macs"),
    [
        (nn.Conv1d(3, 8, 5), (10,), 8 * 6 * 3 * 5),
        (nn.Conv1d(4, 8, 3, stride=2, padding=1, groups=2), (9,), 8 * 5 * 2 * 3),
        (nn.Conv2d(3, 8, 3), (10, 12), 8 * (8 * 10) * 3 * 9),
        (nn.Conv2d(3, 8, 3, bias=False), (10, 12), 8 * (8 * 10) * 3 * 9),
        (nn.Conv2d(3, 8, (3, 5), stride=(2, 3), padding=(1, 2)), (10, 12), 8 * (5 * 4) * 3 * 15),
        (nn.Conv2d(3, 8, 3, dilation=2), (10, 12), 8 * (6 * 8) * 3 * 9),
        (nn.Conv2d(3, 8, 3, dilation=(1, 3), padding=(0, 3), stride=2), (10, 12), 8 * (4 * 6) * 3 * 9),
        (nn.Conv2d(6, 9, 3, groups=3), (6, 6), 9 * (4 * 4) * 2 * 9),
        (nn.Conv2d(6, 6, 3, groups=6, padding=1), (6, 6), 6 * (6 * 6) * 1 * 9),
        (nn.Conv2d(6, 12, 3, groups=6, padding=1), (6, 6), 12 * (6 * 6) * 1 * 9),
        (nn.Conv2d(3, 8, (3, 4), padding="same"), (7, 6), 8 * (7 * 6) * 3 * 12),
        (nn.Conv2d(3, 8, (3, 4), padding="same", dilation=2), (7, 6), 8 * (7 * 6) * 3 * 12),
        (nn.Conv2d(3, 8, 3, padding="valid"), (7, 6), 8 * (5 * 4) * 3 * 9),
        (nn.Conv2d(3, 8, (3, 5), padding=(1, 2), padding_mode="reflect"), (7, 6), 8 * (7 * 6) * 3 * 15),
        (nn.Conv2d(3, 8, 3, padding=(2, 1), stride=2, padding_mode="circular"), (7, 6), 8 * (5 * 3) * 3 * 9),
        (nn.Conv2d(3, 8, (2, 3), padding="same", padding_mode="replicate"), (7, 6), 8 * (7 * 6) * 3 * 6),
        (nn.Conv3d(2, 4, (1, 2, 3), stride=(1, 2, 1), padding=(0, 0, 1)), (3, 4, 5), 4 * (3 * 2 * 5) * 2 * 6),
        # Transposed: input channels * input positions * output channels of a group * kernel.
        (nn.ConvTranspose1d(4, 6, 3, stride=2), (5,), 4 * 5 * 6 * 3),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (5, 7), 4 * (5 * 7) * 6 * 9),
        (nn.ConvTranspose2d(4, 6, (2, 3), groups=2), (5, 7), 4 * (5 * 7) * 3 * 6),
        (nn.ConvTranspose3d(2, 3, 2, dilation=2), (3, 4, 5), 2 * (3 * 4 * 5) * 3 * 8),
    ],
)
def test_convolutions(layer: nn.Module, size: tuple[int, ...], macs: int) -> None:
    channels = layer.in_channels
    assert isinstance(channels, int)
    assert profile(layer, ones(1, channels, *size)).macs == macs
    assert profile(layer, ones(5, channels, *size)).macs == macs
    # Without a batch axis the first axis is channels, and equal numbers of them are no batch.
    assert whole(layer, ones(channels, *size)) == macs


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 8, (3, 5), stride=(2, 1), padding=(1, 2)),
        nn.Conv2d(3, 8, (3, 4), padding="same", dilation=(1, 2)),
        nn.Conv2d(3, 8, (2, 3), padding="same", padding_mode="replicate"),
        nn.Conv2d(6, 9, 3, groups=3, padding=(2, 1), padding_mode="circular"),
        nn.Conv3d(2, 4, (1, 2, 3), stride=(1, 2, 1), padding=(0, 0, 1)),
    ],
)
def test_convolutions_tell_their_shape_and_input_size(layer: Any) -> None:
    size = (7, 6, 5)[: len(layer.kernel_size)]
    x = ones(2, layer.in_channels, *size)
    (operation,) = profile(nn.Sequential(layer), x).operations
    assert operation.shape is not None
    assert operation.shape.weight == tuple(layer.weight.shape)
    assert (operation.shape.inputs, operation.shape.outputs) == (layer.in_channels, layer.out_channels)
    assert (operation.shape.stride, operation.shape.dilation) == (layer.stride, layer.dilation)
    assert operation.size == size
    assert operation.shape.output_size(size) == tuple(layer(x).shape[2:])
    assert operation.rows == 2
    assert (operation.weight, operation.bias) == ("0.weight", "0.bias")


def test_a_convolution_that_pads_after_a_functional_pad_counts_both() -> None:
    kernel = ones(4, 3, 3, 3)

    def padded(x: Tensor) -> Tensor:
        # Channels too, which is no padding of the convolution.
        x = F.conv2d(F.pad(x, (1, 1)), kernel, padding=1)
        return F.conv2d(F.pad(x, (0, 1, 2, 0, 1, 1)), ones(2, 6, 2, 2))

    # 5x5 -> 5x7 -> 5x7, then 7x8 with 6 channels -> 6x7.
    assert whole(Calls(padded), ones(2, 3, 5, 5)) == 2 * (4 * 35 * 27 + 2 * 42 * 24)


def test_the_generic_convolution_operator() -> None:
    def both(x: Tensor) -> Tensor:
        x = torch.convolution(x, ones(4, 2, 3, 3), None, [2, 1], [1, 1], [1, 1], False, [0, 0], 2)
        return torch.convolution(x, ones(4, 3, 2, 2), None, [1, 1], [0, 0], [1, 1], True, [0, 0], 2)

    assert whole(Calls(both), ones(2, 4, 6, 5)) == 2 * (4 * (3 * 5) * 2 * 9 + 4 * (3 * 5) * 3 * 4)


# Products


@pytest.mark.parametrize("leading", [(), (2,), (2, 5), (2, 5, 3)])
def test_linear_on_any_rank(leading: tuple[int, ...]) -> None:
    rows = torch.Size(leading).numel()
    cost = profile(nn.Linear(7, 4), ones(*leading, 7))
    (operation,) = cost.operations
    assert operation.macs == rows * 28
    assert operation.rows == rows
    assert operation.shape == LayerShape(inputs=7, outputs=4)
    assert cost.macs == rows * 28 // (leading[0] if leading else 1)


def test_linear_with_a_single_row_of_weights() -> None:
    assert whole(Calls(lambda x: F.linear(x, ones(7))), ones(2, 7)) == 14


@pytest.mark.parametrize(
    ("function", "shapes", "macs"),
    [
        (torch.matmul, [(3, 4), (4, 5)], 3 * 4 * 5),
        (torch.matmul, [(4,), (4,)], 4),
        (torch.matmul, [(3, 4), (4,)], 3 * 4),
        (torch.matmul, [(4,), (4, 5)], 4 * 5),
        (torch.matmul, [(2, 1, 3, 4), (6, 4, 5)], 2 * 6 * 3 * 4 * 5),
        (lambda a, b: a @ b, [(6, 3, 4), (4, 5)], 6 * 3 * 4 * 5),
        (torch.mm, [(3, 4), (4, 5)], 3 * 4 * 5),
        (torch.bmm, [(6, 3, 4), (6, 4, 5)], 6 * 3 * 4 * 5),
        (torch.mv, [(3, 4), (4,)], 3 * 4),
        (torch.dot, [(4,), (4,)], 4),
        (torch.vdot, [(4,), (4,)], 4),
        (torch.inner, [(2, 3, 4), (5, 4)], 2 * 3 * 5 * 4),
        (torch.linalg.matmul, [(3, 4), (4, 5)], 3 * 4 * 5),
        (lambda a, b: torch.tensordot(a, b, 2), [(3, 4, 5), (4, 5, 6)], 3 * 4 * 5 * 6),
        (lambda a, b: torch.tensordot(a, b, ([0], [1])), [(3, 4), (5, 3)], 4 * 3 * 5),
        (torch.addmm, [(5,), (3, 4), (4, 5)], 3 * 4 * 5),
        (lambda a, b, c: a.addmm_(b, c), [(3, 5), (3, 4), (4, 5)], 3 * 4 * 5),
        (torch.baddbmm, [(6, 3, 5), (6, 3, 4), (6, 4, 5)], 6 * 3 * 4 * 5),
        (torch.addbmm, [(3, 5), (6, 3, 4), (6, 4, 5)], 6 * 3 * 4 * 5),
        (torch.addmv, [(3,), (3, 4), (4,)], 3 * 4),
    ],
)  # fmt: skip
def test_products(function: Callable[..., Tensor], shapes: list[tuple[int, ...]], macs: int) -> None:
    cost = profile(Calls(function), tuple(ones(*shape) for shape in shapes))
    assert sum(operation.macs for operation in cost.operations) == macs
    assert not cost.uncounted


@pytest.mark.parametrize(
    ("equation", "shapes", "macs"),
    [
        ("ij,jk->ik", [(3, 4), (4, 5)], 3 * 4 * 5),
        ("ij, jk", [(3, 4), (4, 5)], 3 * 4 * 5),
        ("bhqd,bhkd->bhqk", [(2, 3, 4, 5), (2, 3, 6, 5)], 2 * 3 * 4 * 6 * 5),
        ("...ij,jk->...ik", [(6, 7, 3, 4), (4, 5)], 6 * 7 * 3 * 4 * 5),
        ("...ij,...jk", [(6, 1, 3, 4), (7, 4, 5)], 6 * 7 * 3 * 4 * 5),
        ("i,j->ij", [(3,), (4,)], 3 * 4),
        ("bi,bi->b", [(2, 3), (2, 3)], 2 * 3),
        # The first axis is summed before anything is multiplied.
        ("ij,jk->k", [(3, 4), (4, 5)], 4 * 5),
        ("ii->i", [(3, 3)], 0),
        # Three operands from left to right: (ab, bc) then (ac, cd).
        ("ab,bc,cd->ad", [(2, 3), (3, 4), (4, 5)], 2 * 3 * 4 + 2 * 4 * 5),
        ("ab,bc,cd", [(2, 3), (3, 4), (4, 5)], 2 * 3 * 4 + 2 * 4 * 5),
        ("...ab,bc,cd->...ad", [(6, 2, 3), (3, 4), (4, 5)], 6 * (2 * 3 * 4 + 2 * 4 * 5)),
        ("ab,cd,bc->ad", [(2, 3), (4, 5), (3, 4)], 2 * 3 * 4 * 5 + 2 * 3 * 4 * 5),
        ("ab,bc,cd,de->ae", [(2, 3), (3, 4), (4, 5), (5, 6)], 2 * 3 * 4 + 2 * 4 * 5 + 2 * 5 * 6),
    ],
)
def test_einsum(equation: str, shapes: list[tuple[int, ...]], macs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where opt_einsum is installed torch would choose the order.
    monkeypatch.setattr(torch.backends.opt_einsum, "enabled", False)
    assert whole(Calls(lambda *x: torch.einsum(equation, *x)), *(ones(*shape) for shape in shapes)) == macs


def test_einsum_in_a_chosen_order() -> None:
    def chosen(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        # First b and c, then a and what they made.
        return torch.ops.aten.einsum("ab,bc,cd->ad", [a, b, c], path=[1, 2, 0, 1])

    assert whole(Calls(chosen), ones(2, 3), ones(3, 4), ones(4, 5)) == 3 * 4 * 5 + 2 * 3 * 5


def test_bilinear() -> None:
    # Each output: a row of the first input times a matrix, 8*6, times the second input, 6.
    assert profile(nn.Bilinear(8, 6, 3), (ones(2, 5, 8), ones(2, 5, 6))).macs == 5 * 3 * (8 * 6 + 6)


# Attention: queries * keys * (width of the keys + width of the values), each head


def test_scaled_dot_product_attention_with_values_of_another_width() -> None:
    attention = Calls(F.scaled_dot_product_attention)
    macs = profile(attention, (ones(2, 3, 5, 8), ones(2, 3, 7, 8), ones(2, 3, 7, 6))).macs
    assert macs == 3 * (5 * 7 * 8 + 5 * 7 * 6)


def test_grouped_query_attention() -> None:
    cost = profile(GroupedQueryAttention(), ones(2, 5, 8))
    by_kind = {kind: sum(op.macs for op in cost.operations if op.kind == kind) // 2 for kind in ("linear", "bmm")}
    assert by_kind["linear"] == 5 * (8 * 16 + 8 * 8 + 8 * 8 + 16 * 8)
    # Four heads of width 4.
    assert cost.macs - by_kind["linear"] == 4 * 2 * (5 * 5 * 4)


@pytest.mark.parametrize("need_weights", [True, False])
def test_multihead_attention(need_weights: bool) -> None:
    attention = nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention

        def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return self.attention(query, key, value, need_weights=need_weights)[0]

    cost = profile(Model(), (ones(3, 5, 8), ones(3, 7, 6), ones(3, 7, 4)))
    projections = 5 * 8 * 8 + 7 * 6 * 8 + 7 * 4 * 8 + 5 * 8 * 8
    assert cost.macs == projections + 2 * (2 * 5 * 7 * 4)
    assert cost.params == sum(parameter.numel() for parameter in attention.parameters())


# Recurrent networks: every matrix once at each step


def test_lstm_of_two_layers_both_directions_and_projections() -> None:
    lstm = nn.LSTM(8, 6, num_layers=2, bidirectional=True, proj_size=4, batch_first=True)
    first = 4 * 6 * (8 + 4) + 4 * 6
    second = 4 * 6 * (2 * 4 + 4) + 4 * 6
    assert profile(lstm, ones(3, 5, 8)).macs == 5 * 2 * (first + second)


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers(kind: type[nn.RNNBase], gates: int) -> None:
    step = gates * 6 * (8 + 6)
    assert profile(kind(8, 6, batch_first=True), ones(3, 5, 8)).macs == 5 * step
    # Time first: the leading size is the length of the sequence.
    assert whole(kind(8, 6), ones(5, 3, 8)) == 3 * 5 * step
    # No batch at all.
    assert whole(kind(8, 6), ones(5, 8)) == 5 * step
    assert whole(kind(8, 6, nonlinearity="relu") if kind is nn.RNN else kind(8, 6, bias=False), ones(5, 8)) == 5 * step


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTMCell, 4), (nn.GRUCell, 3), (nn.RNNCell, 1)])
def test_recurrent_cells(kind: type[nn.RNNCellBase], gates: int) -> None:
    cell = kind(8, 6)
    assert profile(cell, ones(3, 8)).macs == gates * 6 * (8 + 6)
    assert whole(cell, ones(8)) == gates * 6 * (8 + 6)


def test_packed_sequences_are_refused_as_data_dependent() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent = nn.LSTM(8, 6)

        def forward(self, data: Tensor, batch_sizes: Tensor) -> Tensor:
            return self.recurrent(nn.utils.rnn.PackedSequence(data, batch_sizes))[0].data

    packed = nn.utils.rnn.pack_sequence([ones(5, 8), ones(2, 8), ones(2, 8)])
    with pytest.raises(CaptureError, match=r"could not capture Packed with inputs .* data-dependent"):
        profile(Packed(), (packed.data, packed.batch_sizes))


# Batch


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_batch_of_eight_costs_each_example_what_a_batch_of_one_costs(name: str) -> None:
    topology = TOPOLOGIES[name]
    model = topology.make()
    one, eight = (profile(model, topology.inputs(batch)) for batch in (1, 8))
    assert one.macs == eight.macs > 0
    assert sum(operation.macs for operation in eight.operations) == 8 * one.macs
    assert (one.params, one.bytes) == (eight.params, eight.bytes)


def test_inputs_without_a_batch_cost_the_whole_call() -> None:
    cost = profile(nn.Conv2d(3, 8, 3), ones(3, 5, 5))
    assert (cost.batch, cost.macs) == (1, 8 * 9 * 27)


# Parameters and bytes


def test_shared_modules_multiply_at_each_call_and_hold_their_parameters_once() -> None:
    cost = profile(Shared(), ones(2, 3, 8, 8))
    assert cost.macs == 64 * (3 * (3 * 3 * 9) + 3 * 2)
    assert cost.params == (3 * 3 * 9 + 3) + (3 * 2 + 2)
    assert cost.bytes == 4 * cost.params
    assert {layer.name: layer.params for layer in cost.layers} == {"first": 84, "second": 0, "last": 8}


def test_tied_parameters_count_once_and_transient_buffers_not_at_all() -> None:
    cost = profile(TiedLanguageModel(), torch.zeros(2, 5, dtype=torch.long))
    assert cost.macs == 5 * (8 * 8 + 8 * 11)
    assert cost.params == 11 * 8 + (8 * 8 + 8)
    assert cost.bytes == 4 * cost.params


def test_bytes_hold_buffers_by_their_dtype() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1).bfloat16(), nn.BatchNorm2d(4).bfloat16()).eval()
    cost = profile(model, ones(1, 3, 2, 2).bfloat16())
    assert cost.params == 16 + 8
    # Two statistics of four numbers, and the counter of batches in 64 bits.
    assert cost.bytes == 2 * (16 + 8) + 2 * 8 + 8
    assert cost.bytes == sum(value.numel() * value.element_size() for value in model.state_dict().values())


def test_unused_parameters_count() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    model.register_parameter("spare", nn.Parameter(ones(5)))
    assert profile(model, ones(2, 4)).params == 15 + 5


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_layers_add_up_to_the_totals(name: str) -> None:
    topology = TOPOLOGIES[name]
    cost = profile(topology.make(), topology.inputs(2))
    for metric in METRICS:
        assert sum(getattr(layer, metric) for layer in cost.layers) == cost[metric]


def test_a_layer_with_a_parametrized_weight_is_one_row() -> None:
    cost = profile(TOPOLOGIES["parametrized"].make(), ones(2, 3, 8, 8))
    assert [(layer.name, layer.macs, layer.params) for layer in cost.layers] == [
        ("0", 4 * 36 * 27, 4 * 27 + 4 + 4),
        ("2", 2 * 36 * 4, 2 * 4 + 2),
    ]
    # The same for a bare module.
    bare = profile(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), ones(2, 4))
    assert [(layer.name, layer.macs, layer.params) for layer in bare.layers] == [("", 12, 12 + 3 + 3)]
    # A weight that is computed is no tensor of the model.
    assert [operation.weight for operation in cost.operations] == [None, None]
    assert [operation.bias for operation in cost.operations] == ["0.bias", "2.bias"]


def test_a_graph_is_priced_without_its_model() -> None:
    model, x = TOPOLOGIES["residual"].make(), ones(2, 3, 8, 8)
    graph = capture(model, x)
    for cost in (price(graph), profile(model, graph)):
        assert isinstance(cost, Cost)
        assert cost.macs == profile(model, x).macs


def test_an_operation_can_be_resized() -> None:
    (operation,) = profile(nn.Conv2d(3, 8, 3, padding=1), ones(2, 3, 6, 6)).operations
    smaller = resized(operation, LayerShape(
        inputs=3, outputs=4, kernel=(3, 1), stride=(1, 1), dilation=(1, 1), padding=((1, 1), (0, 0)),
    ))  # fmt: skip
    assert smaller.macs == 2 * 36 * 4 * 3 * 3
    assert resized(operation, smaller.shape, rows=1).macs == 36 * 4 * 3 * 3  # type: ignore[arg-type]


# What is not counted


def uncounted(cost: Cost) -> dict[str, tuple[int, bool]]:
    return {item.op: (item.calls, item.known) for item in cost.uncounted}


def test_known_operators_without_products_are_listed() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.ReLU())
    assert uncounted(profile(model, ones(2, 3, 4, 4))) == {
        "aten.batch_norm.default": (1, True),
        "aten.relu.default": (1, True),
        "aten.relu_.default": (1, True),
    }


def test_arithmetic_with_sizes_is_not_listed() -> None:
    class Doubled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(x.shape[0] * 2, -1)

    graph = capture(Doubled(), ones(2, 4), dynamic_batch=True)
    assert graph.dynamic_batch
    assert price(graph).uncounted == ()


@pytest.fixture
def library() -> Iterator[torch.library.Library]:
    # The name of a counted operator, as a trap.
    with torch.library._scoped_library("linear", "DEF") as made:
        made.define("mystery(Tensor x) -> Tensor")
        made.define("peek(Tensor x) -> ()")
        made.impl("mystery", lambda x: x * 2, "CompositeExplicitAutograd")
        made.impl("peek", lambda x: None, "CompositeExplicitAutograd")
        yield made


def test_operators_of_other_libraries_are_listed_as_unknown(library: torch.library.Library) -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch.ops.linear.peek(x)
            return torch.ops.linear.mystery(torch.ops.linear.mystery(x)).relu()

    cost = profile(Model(), ones(2, 4))
    assert cost.macs == 0
    assert uncounted(cost) == {
        "aten.relu.default": (1, True),
        "linear.mystery.default": (2, False),
        "linear.peek.default": (1, False),
    }
    assert "linear.mystery.default x2 (unknown operator)" in str(cost)


def test_a_branch_that_is_not_read_is_listed_as_unknown() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cond(x.sum() > 0, self.layer, torch.clone, (x,))

    assert uncounted(profile(Branches(), ones(2, 4)))["cond"] == (1, False)


# Text


def test_a_cost_prints_as_a_table() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 10))
    assert str(profile(model, ones(2, 3, 8, 8))).splitlines() == [
        "layer   operation      MACs   params     bytes",
        "──────────────────────────────────────────────",
        "0       conv2d      15.55 k      448   1.792 k",
        "4       linear       5.76 k   5.77 k   23.08 k",
        "1                         0       32       264",
        "──────────────────────────────────────────────",
        "total               21.31 k   6.25 k   25.14 k",
        "not counted: aten.batch_norm.default x1, aten.relu.default x1",
    ]


def test_a_bare_layer_is_called_the_model() -> None:
    text = str(profile(nn.Linear(4, 3), ones(2, 4)))
    assert text.splitlines()[2].split() == ["(model)", "linear", "12", "15", "60"]
    assert "not counted" not in text


def test_a_metric_is_an_index() -> None:
    cost = profile(nn.Linear(4, 3), ones(2, 4))
    assert [cost[metric] for metric in METRICS] == [12, 15, 60]
