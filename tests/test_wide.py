"""Tensors that compute as float64, a piece at a time: every operator against the same on plain float64."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gracile import oracle, wide
from gracile.channels import channel_groups
from gracile.cutting import cut
from gracile.graph import capture
from gracile.prune.planning import find_groups
from gracile.wide import Wide, hollow, whole


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(wide, "PIECE", 64)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


X, IMAGES, INDEX = drawn(5, 7, 24).double(), drawn(2, 3, 9, 9).double(), torch.tensor([3, 1])
OPERATIONS = {
    "linear": (lambda w, b: F.linear(X, w, b), (33, 24), (33,)),
    "linear of a matrix": (lambda w, b: F.linear(X[0], w, b), (33, 24), (33,)),
    "linear with a plain bias": (lambda w: F.linear(X[0], w, drawn(33).double()), (33, 24)),
    "one bias for all": (lambda w: torch.addmm(drawn(1).double(), X[0], w, alpha=3, beta=2), (24, 33)),
    "linear without bias": (lambda w: F.linear(X, w), (33, 24)),
    "a product": (lambda w: X @ w.T, (33, 24)),
    "a product from the left": (lambda w: w @ X[0].T, (33, 24)),
    "of two": (lambda a, b: a @ b, (33, 24), (24, 30)),
    "convolution": (lambda w: F.conv2d(IMAGES, w, drawn(17).double(), padding=1, stride=2), (17, 3, 3, 3)),
    "convolution, same": (lambda w, b: F.conv2d(IMAGES, w, b, padding="same"), (17, 3, 3, 3), (17,)),
    "one image": (lambda w: F.conv2d(IMAGES[0], w), (17, 3, 3, 3)),
    "one dimension": (lambda w: F.conv1d(X.transpose(1, 2), w), (17, 24, 3)),
    "transposed": (lambda w: F.conv_transpose2d(IMAGES, w, stride=2, output_padding=1), (3, 17, 3, 3)),
    "grouped": (lambda w: F.conv2d(IMAGES, w, groups=3), (18, 1, 3, 3)),
    "table": (lambda w: F.embedding(torch.tensor([[1, 2], [0, 5]]), w, padding_idx=2), (18, 11)),
    "slices": (lambda w: w.index_select(0, INDEX).index_select(1, torch.tensor([0, 4, 2])).t(), (18, 11)),
    "slices of slices": (lambda w: w.index_select(-1, INDEX).index_select(1, torch.tensor([1])), (18, 11)),
    "zeros": (lambda w: w.masked_fill((torch.arange(18) % 3 == 0)[:, None], 0).index_select(0, INDEX), (18, 11)),
    "zeros on two axes": (lambda w: _zeroed(_zeroed(w, 0), 1), (18, 11)),
    "more zeros": (lambda w: _zeroed(w, 0).masked_fill((torch.arange(18) == 5)[:, None], 0), (18, 11)),
    "zeros anywhere": (lambda w: w.masked_fill(torch.arange(18 * 11).reshape(18, 11) % 5 == 0, 0), (18, 11)),
    "other values": (lambda w: w.masked_fill((torch.arange(11) > 5)[None], 2.0), (18, 11)),
    "zeros, turned": (lambda w: _zeroed(w, 1).permute(1, 2, 0).transpose(0, -1), (6, 11, 4)),
    "a product with zeros": (lambda w: X @ _zeroed(_zeroed(w, 0), 1).index_select(0, torch.arange(1, 30)).T, (33, 24)),
    "norm": (lambda w: F.layer_norm(X, (24,), w), (24,)),
    "pieces": (lambda w: torch.cat([w.chunk(3)[0], w[:2]]), (18, 11)),
    "a scalar": (lambda w: X * w, ()),
    "a vector": (lambda w: w.t(), (4,)),
}


def _zeroed(weight: torch.Tensor, axis: int) -> torch.Tensor:
    mask = torch.arange(weight.shape[axis]) % 2 == 0
    return weight.masked_fill(mask.reshape([-1 if place == axis else 1 for place in range(weight.ndim)]), 0)


@pytest.mark.parametrize("name", OPERATIONS)
@torch.no_grad()
def test_an_operator_gives_what_it_gives_of_float64(name):
    operation, *shapes = OPERATIONS[name]
    tensors = [drawn(*shape) for shape in shapes]
    found = whole(operation(*(Wide(tensor) for tensor in tensors)))
    assert type(found) is torch.Tensor
    torch.testing.assert_close(found, operation(*(tensor.double() for tensor in tensors)), rtol=1e-13, atol=1e-13)


def test_it_shares_the_memory_and_cannot_be_written():
    own = drawn(4, 6)
    item = nn.Parameter(Wide(own), requires_grad=False)
    assert isinstance(item, nn.Parameter)
    assert item.dtype is torch.float64
    assert item._own.data_ptr() == own.data_ptr()
    assert item.index_select(0, INDEX)._own.data_ptr() == own.data_ptr()
    with pytest.raises(RuntimeError, match="reading only"):
        item.add_(1)
    torch.testing.assert_close(whole({"a": [item]})["a"][0], own.double())


def lazily(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model, {id(item): nn.Parameter(Wide(item)) for item in model.parameters()})


@pytest.mark.parametrize(
    "model",
    [
        nn.LSTM(24, 16, 2, batch_first=True, bidirectional=True),
        nn.GRU(24, 8),
        nn.MultiheadAttention(24, 4, batch_first=True),
        nn.TransformerEncoderLayer(24, 4, batch_first=True),
    ],
    ids=lambda model: type(model).__name__,
)
@torch.no_grad()
def test_modules_of_torch(model):
    model.eval()
    inputs = (X,) * (3 if isinstance(model, nn.MultiheadAttention) else 1)
    found, wanted = lazily(model)(*inputs), copy.deepcopy(model).double()(*inputs)
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)


def test_a_hollow_model_is_captured_and_whole_again_afterwards():
    model = lazily(nn.Sequential(nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 2)).eval())
    before = list(model.parameters())
    with hollow(model):
        graph = capture(model, X)
        assert all(type(item) is nn.Parameter for item in model.parameters())
    assert [id(item) for item in model.parameters()] == [id(item) for item in before]
    assert graph.tensors["0.weight"].dtype is torch.float64


class Writer(nn.Module):
    """Writes into a buffer at each call, and gives another result for it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(24, 16), nn.Linear(16, 4)
        self.register_buffer("seen", torch.zeros(16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.add_(1)
        return self.second(torch.relu(self.first(x)))


@pytest.mark.parametrize("fault", [False, True])
def test_a_wrong_cut_is_seen_through_pieces(monkeypatch, fault):
    """One index too far keeps every shape, and must not pass."""
    monkeypatch.setattr(oracle, "_SMALL", 0)
    model = nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    graph = capture(model, X.float())
    groups = channel_groups(graph)
    [group] = find_groups(graph).groups
    original = wide._index_select

    def shifted(item, axis, index):
        return original(item, axis, (index + 1) % item.shape[axis] if fault and axis == 1 else index)

    monkeypatch.setitem(wide._RULES, torch.ops.aten.index_select.default, shifted)
    if fault:
        with pytest.raises(Exception, match="does not equal"):
            cut(model, graph, groups, {group.name: [1, 5]})
    else:
        assert cut(model, graph, groups, {group.name: [1, 5]}).error < 1e-12


def test_code_that_writes_is_verified_on_a_copy(monkeypatch):
    monkeypatch.setattr(oracle, "_SMALL", 0)
    model = Writer().eval()
    graph = capture(model, X.float())
    groups = channel_groups(graph)
    assert cut(model, graph, groups, {"first": [1, 5]}).error < 1e-12
    assert not model.seen.any()
