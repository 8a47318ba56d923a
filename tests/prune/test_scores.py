"""Scores of channel groups, by hand and on every topology."""

import logging

import numpy as np
import pytest
import torch
from dependent_nets import TOPOLOGIES, randomised
from torch import Tensor, nn

from gracile.channels import ChannelGroup, ChannelGroups, Member, channel_groups
from gracile.errors import InputError
from gracile.graph import Graph, capture
from gracile.prune.scores import CRITERIA, scores_of


def captured(model: nn.Module, inputs: Tensor) -> tuple[Graph, ChannelGroups]:
    graph = capture(model, inputs)
    return graph, channel_groups(graph)


def chain(norm: bool = True) -> nn.Sequential:
    """Two channels between a convolution and another."""
    return nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2) if norm else nn.Identity(), nn.ReLU(), nn.Conv2d(2, 2, 1, bias=False)
    ).eval()


def filled(norm: bool = True) -> nn.Sequential:
    model = chain(norm)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1))
        model[3].weight.copy_(torch.tensor([[30.0, 0.0], [40.0, 10.0]]).reshape(2, 2, 1, 1))
        if norm:
            model[1].weight.copy_(torch.tensor([-6.0, 2.0]))
    return model


def scored(model, criterion, **options):
    graph, groups = captured(model, torch.randn(2, 1, 3, 3))
    [scores] = scores_of(model, graph, groups, criterion, **options).values()
    return scores


@pytest.mark.parametrize(
    ("criterion", "expected"),
    [
        # Producer [1, 3] / 2 = [.5, 1.5]; consumer columns |(30, 40)| = 50 and |(0, 10)| = 10, / 30.
        ("l2", [(0.5 + 50 / 30) / 2, (1.5 + 10 / 30) / 2]),
        # Consumer columns 70 and 10, / 40.
        ("l1", [(0.5 + 70 / 40) / 2, (1.5 + 10 / 40) / 2]),
        # Two channels are as far from each other as the other way round.
        ("fpgm", [1, 1]),
        ("bn_scale", [6 / 4, 2 / 4]),
    ],
)
def test_by_hand(criterion, expected):
    scores = scored(filled(), criterion)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, expected, rtol=1e-12)


def test_size_and_scale_of_a_tensor_do_not_matter():
    model = filled()
    before = scored(model, "l2")
    with torch.no_grad():
        model[3].weight.mul_(1000)
    np.testing.assert_allclose(scored(model, "l2"), before, rtol=1e-6)


def test_groups_without_batch_norm_are_scored_by_l2(caplog):
    with caplog.at_level(logging.WARNING, "gracile"):
        scores = scored(filled(norm=False), "bn_scale")
    np.testing.assert_allclose(scores, scored(filled(norm=False), "l2"))
    assert "nothing for bn_scale to look at in 0" in caplog.text


def test_random_scores_follow_the_seed():
    assert np.array_equal(scored(chain(), "random", seed=3), scored(chain(), "random", seed=3))
    assert not np.array_equal(scored(chain(), "random", seed=3), scored(chain(), "random", seed=4))


def test_a_criterion_of_ones_own():
    seen = []

    def largest(matrix: Tensor) -> Tensor:
        seen.append((tuple(matrix.shape), matrix.dtype))
        return matrix.abs().amax(1)

    # Producer [1, 3] / 2; consumer 40 and 10, / 25.
    np.testing.assert_allclose(scored(filled(), largest), [(0.5 + 40 / 25) / 2, (1.5 + 10 / 25) / 2])
    assert seen == [((2, 1), torch.float64), ((2, 2), torch.float64)]


def test_scores_below_zero_keep_their_order():
    scores = scored(filled(), lambda matrix: -matrix.abs().sum(1))
    np.testing.assert_allclose(scores, -scored(filled(), "l1"))


def test_dead_weights_are_worth_nothing():
    model = filled()
    with torch.no_grad():
        model[0].weight.zero_()
        model[3].weight.zero_()
    assert scored(model, "l1").tolist() == [0, 0]


@pytest.mark.parametrize("name", TOPOLOGIES)
@pytest.mark.parametrize("criterion", [name for name, chosen in CRITERIA.items() if not chosen.needs_data])
def test_every_topology(name, criterion):
    torch.manual_seed(0)
    model, inputs = TOPOLOGIES[name]()
    model = randomised(model)
    graph, groups = captured(model, inputs)
    found = scores_of(model, graph, groups, criterion)
    assert list(found) == [group.name for group in groups.groups]
    for group in groups.groups:
        scores = found[group.name]
        assert scores.shape == (group.channels,)
        assert np.isfinite(scores).all()
        # Alone, a channel is at no distance from any other.
        assert scores.mean() == pytest.approx(0 if criterion == "fpgm" and group.channels == 1 else 1)
    assert all(np.array_equal(found[n], s) for n, s in scores_of(model, graph, groups.groups, criterion).items())


def test_several_positions_a_channel():
    """A head takes its queries, keys and values along."""
    torch.manual_seed(0)
    model, inputs = TOPOLOGIES["packed"]()
    graph, groups = captured(model, inputs)
    [heads] = [g for g in groups.groups if any(m.tensor == "out.weight" and m.axis == 1 for m in g.members)]
    qkv = model.qkv.weight.detach().double().reshape(3, 4, 4, 16).transpose(0, 1).flatten(1).norm(dim=1)
    out = model.out.weight.detach().double().reshape(16, 4, 4).transpose(0, 1).flatten(1).norm(dim=1)
    expected = (qkv / qkv.mean() + out / out.mean()) / 2
    np.testing.assert_allclose(scores_of(model, graph, [heads], "l2")[heads.name], expected.numpy(), rtol=1e-12)


def test_vectors_count_where_there_is_nothing_else():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, 3.0]))
    graph = capture(model, torch.randn(2, 1, 3, 3))
    group = ChannelGroup("norm", 2, (Member("1.weight", 0, np.array([[0], [1]])),))
    np.testing.assert_allclose(scores_of(model, graph, [group], "l2")["norm"], [0.5, 1.5])


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"criterion is 'l3'; it is one of l1, l2, fpgm, bn_scale, random, apoz"):
        scored(chain(), "l3")
    with pytest.raises(InputError, match="criterion is 7"):
        scored(chain(), 7)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(value):
    model = chain()
    with torch.no_grad():
        model[3].weight[0, 0] = value
    with pytest.raises(InputError, match=r"3\.weight holds NaN or infinite"):
        scored(model, "l1")


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda matrix: matrix, r"returned the shape \[2, 1\] for 0\.weight.*one score a row: \[2\]"),
        (lambda matrix: matrix.sum(), r"returned the shape \[\]"),
        (lambda matrix: matrix.sum(1) / 0, "NaN or infinite scores for 0.weight"),
        (lambda matrix: None, "returned a NoneType for 0.weight"),
        (lambda matrix: "scores", "returned a str"),
    ],
)
def test_a_criterion_that_does_not_fit_is_refused(result, message):
    with pytest.raises(InputError, match=message):
        scored(filled(), result)
