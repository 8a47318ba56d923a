"""A plan as zeros: it equals the oracle, trains, and comes off again."""

import copy
from functools import cache

import pytest
import topologies
import torch
from dependent_nets import TOPOLOGIES, randomised
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gracile.channels import channel_groups
from gracile.cutting import cut
from gracile.errors import InputError, PlanError
from gracile.graph import Graph, capture
from gracile.oracle import kept_by, oracle
from gracile.plan import AddBias, Factorize, Plan, SetAttribute, Slice
from gracile.prune.masks import mask, unmask
from gracile.surgery import apply
from gracile.testing import assert_equivalent

# Weights that are divided by their norms: 0 / 0 where all of a channel is masked, and parametrized ones take no mask.
MASKED = [name for name in TOPOLOGIES if name not in ("divided_weights", "weight_norm")]


def planned(model: nn.Module, inputs: Tensor) -> tuple[Graph, Plan]:
    """The capture, and a plan that removes half of every group."""
    graph = capture(model, inputs)
    groups = channel_groups(graph)
    removed = {group.name: torch.randperm(group.channels)[: group.channels // 2].tolist() for group in groups.groups}
    return graph, cut(model, graph, groups, removed).plan


@cache
def halved(name: str) -> tuple[nn.Module, Tensor, Graph, Plan]:
    """A network in float64, its inputs, its capture, and a plan.  Not to be changed."""
    torch.manual_seed(0)
    model, inputs = TOPOLOGIES[name]()
    model = randomised(model).double()
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    return model, inputs, *planned(model, inputs)


def equal(left: nn.Module, right: nn.Module) -> bool:
    """Bit for bit, names and their order included."""
    mine, other = [*left.named_parameters(), *left.named_buffers()], [*right.named_parameters(), *right.named_buffers()]
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in zip(mine, other, strict=True))


@pytest.mark.parametrize("name", MASKED)
def test_computes_what_the_oracle_does(name):
    model, inputs, graph, plan = halved(name)
    masked = mask(model, plan)
    expected = oracle(model, graph, plan)
    assert not torch.allclose(model(inputs), expected, rtol=1e-3)
    if norms_over_what_is_cut(graph, plan):
        # They see the zeros of a mask: only the small form computes over what is kept.
        assert not torch.allclose(masked(inputs), expected, rtol=1e-3)
        assert_equivalent(unmask(masked), plan, inputs)
        return
    for context in (torch.enable_grad, torch.no_grad):
        with context():
            torch.testing.assert_close(masked(inputs), expected, rtol=1e-12, atol=1e-12, check_stride=False)


def norms_over_what_is_cut(graph: Graph, plan: Plan) -> bool:
    groups = channel_groups(graph)
    stays = groups.remaining(kept_by(plan, graph))
    return not all(stays[site.labels].all() for site in groups.norms)


def test_both_kinds_are_among_the_topologies():
    kinds = {name: norms_over_what_is_cut(*halved(name)[2:]) for name in ("chain", "residual", "group_norm", "packed")}
    assert kinds == {"chain": False, "residual": False, "group_norm": True, "packed": True}


@pytest.mark.parametrize("name", MASKED)
def test_one_plan_fits_both_forms(name):
    model, _, _, plan = halved(name)
    before = copy.deepcopy(model)
    masked = mask(model, plan)
    assert equal(apply(unmask(masked), plan), apply(model, plan))
    assert equal(model, before)


@pytest.mark.parametrize("name", MASKED)
def test_comes_off_again(name):
    model, inputs, _, plan = halved(name)
    masked = mask(model, plan)
    shown = masked(inputs)
    plain = unmask(masked)
    assert list(plain.state_dict()) == list(model.state_dict())
    assert type(plain) is type(model)
    torch.testing.assert_close(plain(inputs), shown, rtol=1e-12, atol=1e-12)
    assert equal(unmask(masked, keep_zeros=False), model)
    # The copies leave the masked model as it was.
    torch.testing.assert_close(masked(inputs), shown, rtol=0, atol=0)


def test_the_very_slices_are_zero():
    model, _, _, plan = halved("residual")
    plain = unmask(mask(model, plan)).state_dict()
    for edit in plan.edits:
        assert isinstance(edit, Slice)
        tensor, original = (state[edit.tensor].movedim(edit.axis, 0) for state in (plain, model.state_dict()))
        gone = sorted({*range(len(tensor))} - {*edit.keep})
        assert not tensor[gone].any()
        others = [e for e in plan.edits if e.tensor == edit.tensor and e is not edit]
        if not others:
            assert torch.equal(tensor[list(edit.keep)], original[list(edit.keep)])


def test_running_statistics_are_zero_and_come_back():
    model, _, _, plan = halved("chain")
    masked = mask(model, plan)
    buffer = next(edit for edit in plan.edits if edit.tensor.endswith("running_var"))
    gone = sorted({*range(8)} - {*buffer.keep})
    assert not masked.get_buffer(buffer.tensor)[gone].any()
    assert masked.get_buffer(buffer.tensor)[list(buffer.keep)].all()
    # What it learns under the mask stays; what was hidden returns.
    masked.get_buffer(buffer.tensor)[list(buffer.keep)] = 7
    back = unmask(masked, keep_zeros=False).get_buffer(buffer.tensor)
    assert (back[list(buffer.keep)] == 7).all()
    assert torch.equal(back[gone], model.get_buffer(buffer.tensor)[gone])


@pytest.mark.parametrize("name", ["chain", "residual", "depthwise", "flatten_linear", "squeeze_excite", "lstm", "gru"])
def test_zeros_stay_zero_in_training(name):
    model, inputs, _, plan = halved(name)
    masked = mask(model, plan).train()
    optimizer = torch.optim.SGD(masked.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        masked(inputs).square().mean().backward()
        optimizer.step()
    masked.eval()
    for edit in plan.edits:
        if isinstance(edit, Slice) and edit.tensor in dict(model.named_parameters()):
            path, _, leaf = edit.tensor.rpartition(".")
            found = masked.get_submodule(path).parametrizations[leaf]
            gone = sorted({*range(found.original.shape[edit.axis])} - {*edit.keep})
            assert not found.original.grad.movedim(edit.axis, 0)[gone].any()
            assert not found().movedim(edit.axis, 0)[gone].any()
    # What is trained in this form is what the small one computes.
    trained = masked(inputs)
    assert not torch.allclose(trained, mask(model, plan)(inputs))
    torch.testing.assert_close(apply(unmask(masked), plan)(inputs), trained, rtol=1e-9, atol=1e-12)


def test_recurrent_modules_can_be_copied_after_a_call():
    model, inputs, _, plan = halved("lstm")
    masked = mask(model, plan)
    expected = masked(inputs)
    again = copy.deepcopy(masked)
    torch.testing.assert_close(again(inputs), expected, rtol=0, atol=0)
    plain = unmask(again.float().double(), inplace=True)
    assert not plain.rnn._forward_hooks
    assert not plain.rnn._forward_pre_hooks
    torch.testing.assert_close(plain(inputs), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(masked(inputs), expected, rtol=0, atol=0)


def test_a_failing_call_leaves_a_recurrent_module_fit_for_copies():
    model, inputs, _, plan = halved("lstm")
    masked = mask(model, plan)
    with pytest.raises(RuntimeError):
        masked.rnn(torch.zeros(2, 7, 99).double())
    torch.testing.assert_close(copy.deepcopy(masked)(inputs), masked(inputs))


def test_tied_parameters_stay_tied():
    model, inputs, _, plan = halved("tied_embedding")
    masked = mask(model, plan)
    assert masked.head.parametrizations.weight.original is masked.embedding.parametrizations.weight.original
    assert torch.equal(masked.head.weight, masked.embedding.weight)
    assert len(list(masked.parameters())) == len(list(model.parameters()))
    masked(inputs).sum().backward()
    for keep_zeros in (True, False):
        plain = unmask(masked, keep_zeros=keep_zeros)
        assert plain.head.weight is plain.embedding.weight
    assert apply(unmask(masked), plan).head.weight.shape == (20, 4)


@pytest.mark.parametrize("name", ["shared", "attention_of_torch", "encoder", "many_outputs", "transposed"])
def test_other_topologies(name):
    torch.manual_seed(0)
    model = randomised(topologies.TOPOLOGIES[name].make()).double()
    inputs = topologies.TOPOLOGIES[name].inputs(2).double()
    _, plan = planned(model, inputs)
    masked = mask(model, plan)
    assert equal(apply(unmask(masked), plan), apply(model, plan))
    assert equal(unmask(masked, keep_zeros=False), model)


def test_a_model_that_is_one_layer():
    model = nn.Linear(4, 3)
    plan = Plan(edits=(Slice(tensor="weight", axis=1, keep=(0, 2)),))
    masked = mask(model, plan)
    assert torch.equal(masked(torch.eye(4))[[1, 3]], model.bias.expand(2, 3))
    assert equal(unmask(masked, keep_zeros=False), model)


def test_in_place_the_parameters_remain_the_same_objects():
    model, _, _, plan = halved("chain")
    own = copy.deepcopy(model)
    parameters = list(own.parameters())
    assert mask(own, plan, inplace=True) is own
    assert {id(p) for p in own.parameters()} == {id(p) for p in parameters}
    assert unmask(own, inplace=True) is own
    assert all(a is b for a, b in zip(own.parameters(), parameters, strict=True))


def test_slices_of_slices():
    model = nn.Linear(4, 2)
    first, second = (Plan(edits=(Slice(tensor="weight", axis=1, keep=keep),)) for keep in ((0, 2, 3), (1, 2)))
    assert torch.equal(unmask(mask(model, first.then(second))).weight[:, :2], torch.zeros(2, 2))
    with pytest.raises(PlanError, match=r"keep 2 of axis 1 of weight: it has the shape \[2, 2\]"):
        mask(model, first.then(second).then(second))


def test_a_masked_model_is_captured_and_saved():
    model, inputs, graph, plan = halved("chain")
    masked = mask(model, plan)
    assert set(graph.tensors) <= set(capture(masked, inputs).tensors)
    assert not any("removed" in name for name in masked.state_dict())
    fresh = mask(TOPOLOGIES["chain"]()[0].double().eval(), plan)
    fresh.load_state_dict(masked.state_dict())
    torch.testing.assert_close(fresh(inputs), masked(inputs), rtol=0, atol=0)


def test_values_can_be_assigned_under_a_mask():
    masked = mask(nn.Linear(2, 2), Plan(edits=(Slice(tensor="weight", axis=1, keep=(0,)),)))
    masked.weight = torch.ones(2, 2)
    assert masked.weight.tolist() == [[1, 0], [1, 0]]
    assert unmask(masked, keep_zeros=False).weight.tolist() == [[1, 1], [1, 1]]


def test_values_that_are_no_numbers_are_masked_too():
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, float("inf")]]))
    masked = mask(model, Plan(edits=(Slice(tensor="weight", axis=1, keep=(0,)),)))
    assert masked.weight.tolist() == [[1, 0]]


def test_attributes_are_no_matter_of_masks():
    plan = Plan(edits=(SetAttribute(module="", name="out_features", value=1),))
    assert mask(nn.Linear(2, 2), plan).out_features == 2


@pytest.mark.parametrize("edit", [AddBias(module="body.1.0"), Factorize(module="head", scheme="weight_svd", rank=1)])
def test_other_edits_are_refused(edit):
    model, _, _, plan = halved("chain")
    with pytest.raises(InputError, match=r"a mask stands for slices.*apply the plan's first 1 edits"):
        mask(model, Plan(edits=(edit,)).then(plan))


def test_what_does_not_fit_is_refused():
    model, _, _, plan = halved("chain")
    with pytest.raises(PlanError, match="no parameter or buffer of that name"):
        mask(nn.Linear(2, 2), plan)
    with pytest.raises(PlanError, match="was the plan made for another model"):
        mask(nn.Linear(2, 2), Plan(edits=(Slice(tensor="weight", axis=0, keep=(5,)),)))
    with pytest.raises(InputError, match="plan is a str"):
        mask(model, "plan")
    with pytest.raises(InputError, match="masked already"):
        mask(mask(model, plan), plan)
    with pytest.raises(InputError, match="holds no masks"):
        unmask(model)


class Doubled(nn.Module):
    def forward(self, tensor: Tensor) -> Tensor:
        return 2 * tensor


def test_other_parametrizations_are_left_alone():
    model = nn.Linear(2, 2)
    parametrize.register_parametrization(model, "weight", Doubled())
    with pytest.raises(PlanError, match="it is parametrized"):
        mask(model, Plan(edits=(Slice(tensor="weight", axis=0, keep=(0,)),)))
    plan = Plan(edits=(Slice(tensor="bias", axis=0, keep=(0,)),))
    masked = mask(model, plan)
    assert model.bias[1] != 0
    assert masked.bias[1] == 0
    assert equal(unmask(masked, keep_zeros=False), model)
    parametrize.register_parametrization(masked, "bias", Doubled())
    with pytest.raises(InputError, match="bias has parametrizations besides its mask"):
        unmask(masked)
