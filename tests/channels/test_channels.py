"""Groups, frozen reasons, and what `kept` refuses."""

import pytest
import torch
from torch import Tensor, nn

from gracile.channels import ChannelGroups, channel_groups
from gracile.errors import InputError, PlanError
from gracile.graph import capture
from gracile.plan import Plan, Slice
from gracile.surgery import apply, swapped


class Chain(nn.Module):
    """Two linear layers with an operation between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        self.spare = nn.Linear(2, 2)

    def between(self, x: Tensor) -> Tensor:
        return x.relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x)))


def groups_of(between: object) -> ChannelGroups:
    kind = type("Chain", (Chain,), {"between": lambda self, x: between(x)})  # type: ignore[operator]
    return channel_groups(capture(kind(), torch.randn(2, 4)))


def test_members_have_positions() -> None:
    groups = groups_of(torch.relu)
    [group] = groups.groups
    assert (group.name, group.channels) == ("first", 6)
    assert {(m.tensor, m.axis): m.positions.ravel().tolist() for m in group.members} == {
        ("first.weight", 0): [0, 1, 2, 3, 4, 5],
        ("first.bias", 0): [0, 1, 2, 3, 4, 5],
        ("last.weight", 1): [0, 1, 2, 3, 4, 5],
    }
    assert "first: 6 channels of first.weight[0], first.bias[0], last.weight[1]" in str(groups)


def normalised_at_once(x: Tensor) -> Tensor:
    var, mean = torch.var_mean(x, -1, keepdim=True)
    return (x - mean) * (var + 1e-5).rsqrt()


def raised(x: Tensor) -> Tensor:
    """The sum of what was raised in place through another view of it."""
    view = x.unsqueeze(0)
    x.add_(1)
    return view.sum()


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (lambda x: x.softmax(-1), "all of it is needed by softmax"),
        (lambda x: x - x.amax(-1, keepdim=True), "reduced by amax"),
        (lambda x: x * x.mean(-1, keepdim=True), "reduced by mean"),
        (lambda x: x + torch.arange(6), "meets a fixed axis in add"),
        (lambda x: torch.fft.fft(x).real, "fft_fft: no rule for this operator"),
        (lambda x: x[:, torch.tensor([5, 4, 3, 2, 1, 0])], "indexed by index"),
        (lambda x: x + x.sigmoid().sum(-1, keepdim=True), "sum over channels that do not vanish"),
        (lambda x: x.roll(1, -1), "reordered by roll"),
        (lambda x: x.contiguous().as_strided((4, 6), (3, 1)), "as_strided: it is no plain view"),
        (lambda x: x.t().as_strided((2, 6), (6, 1)), "as_strided: it is no plain view"),
        (lambda x: x.tril(), "blanked by its place in tril"),
        (lambda x: x.reciprocal(), "infinite where it is zero in reciprocal"),
        (lambda x: x**-2, "infinite where it is zero in pow"),
        (lambda x: x.sigmoid() / x, "infinite where it is zero in div"),
        (lambda x: x + x.logsumexp(0).sum(), "sum over channels that do not vanish"),
        (lambda x: x + raised(x.relu()), "sum over channels that do not vanish"),
        (lambda x: x + x.std(-1, keepdim=True), "reduced by std"),
        (lambda x: x.unsqueeze(1).diff(dim=1, prepend=x.unsqueeze(1)).squeeze(1), "diff: it joins tensors"),
    ],
)
def test_operations_that_need_all_channels_freeze_them(between: object, reason: str) -> None:
    groups = groups_of(between)
    assert not groups.groups
    assert groups.frozen["first.weight", 0] == reason


@pytest.mark.parametrize(
    "between",
    [
        lambda x: x + x.sum(-1, keepdim=True),
        lambda x: x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt(),
        lambda x: (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-5).sqrt(),
        lambda x: nn.functional.normalize(x, dim=-1),
        lambda x: torch.cat([x, x[:, 6:]], -1),
        lambda x: (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-5),
        normalised_at_once,
        lambda x: x / x.abs(),
        lambda x: x.mT.relu().mT.movedim(0, 1).movedim(1, 0),
        lambda x: torch.einsum("ab,ca", x, torch.eye(2)).relu().mT,
        lambda x: (x, x.softmax(-1))[0],
    ],
)
def test_sums_of_what_vanishes_and_norms_do_not(between: object) -> None:
    assert groups_of(between).groups[0].channels == 6


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("grouped", [1, 2])
def test_sums_of_convolutions_must_vanish_too(transposed: bool, grouped: int) -> None:
    class Computed(nn.Module):
        """Neither what the second convolution reads nor its weight is zero where channels are removed."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv1d(3, 8, 1), nn.Conv1d(8, 2, 1)
            self.weight = nn.Parameter(torch.randn(8, 8 // grouped, 1))

        def forward(self, x: Tensor) -> Tensor:
            convolve = nn.functional.conv_transpose1d if transposed else nn.functional.conv1d
            return self.last(convolve(self.first(x).sigmoid(), self.weight.exp(), groups=grouped))

    frozen = channel_groups(capture(Computed(), torch.randn(2, 3, 4))).frozen
    assert frozen["first.weight", 0].endswith("over channels that do not vanish")


def test_a_gate_of_two_channels_stays() -> None:
    gated = nn.Sequential(nn.Conv1d(3, 2, 1), nn.GLU(1), nn.Conv1d(1, 2, 1))
    assert channel_groups(capture(gated, torch.randn(2, 3, 4))).frozen["0.weight", 0] == "halved by glu of 1"


def test_groups_of_one_output_go_whole() -> None:
    chain = nn.Sequential(nn.Conv1d(3, 8, 1), nn.Conv1d(8, 4, 1, groups=4), nn.Conv1d(4, 2, 1))
    [group] = channel_groups(capture(chain, torch.randn(2, 3, 4))).groups
    assert {(member.tensor, member.axis): member.positions.shape for member in group.members} == {
        ("0.weight", 0): (4, 2), ("0.bias", 0): (4, 2), ("1.weight", 0): (4, 1), ("1.bias", 0): (4, 1),
        ("2.weight", 1): (4, 1),
    }  # fmt: skip


def test_inputs_outputs_and_what_is_not_read_are_frozen() -> None:
    frozen = groups_of(torch.relu).frozen
    assert frozen["last.weight", 0] == "the model returns it"
    assert frozen["first.weight", 1] == "meets a fixed axis in linear of first"
    assert frozen["spare.weight", 0] == "not read when the model is evaluated"


def test_refusals_of_kept() -> None:
    groups = groups_of(torch.relu)
    with pytest.raises(InputError, match="there is no channel group 'body'; the groups are \\['first'\\]"):
        groups.kept({"body": [0]})
    with pytest.raises(InputError, match="has channels 0 to 5, not \\[6\\]"):
        groups.kept({"first": [6]})
    with pytest.raises(InputError, match="nothing would be left"):
        groups.kept({"first": range(6)})
    with pytest.raises(InputError, match="heads is 'some'; it can be 'whole' or 'dimension'"):
        channel_groups(capture(Chain(), torch.randn(2, 4)), heads="some")  # type: ignore[arg-type]


def test_slices_must_cut_whole_channels() -> None:
    graph = capture(Chain(), torch.randn(2, 4))
    with pytest.raises(PlanError, match="do not cut whole channels"):
        Plan(edits=(Slice(tensor="first.weight", axis=0, keep=(0, 1)),)).cost(graph)
    with pytest.raises(PlanError, match="no parameter or buffer"):
        Plan(edits=(Slice(tensor="second.weight", axis=0, keep=(0, 1)),)).cost(graph)
    with pytest.raises(PlanError, match="was the plan made for another model"):
        apply(Chain(), Plan(edits=(Slice(tensor="first.weight", axis=0, keep=(7,)),)))
    with pytest.raises(ValueError, match="in increasing order"):
        Slice(tensor="first.weight", axis=0, keep=(1, 0))


def test_swapped_slices_are_undone() -> None:
    model = Chain()
    before = dict(model.named_parameters())
    with swapped(model, [Slice(tensor="first.weight", axis=0, keep=(0, 2))]):
        assert model.first.weight.shape == (2, 4)
        assert model.first.out_features == 2
    assert model.first.out_features == 6
    assert all(model.get_parameter(name) is parameter for name, parameter in before.items())
