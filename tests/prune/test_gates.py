"""Gates: zeros, gradients seen straight through them, and a model as before once they are gone."""

import copy
import pickle

import pytest
import topologies
import torch
from torch import Tensor, nn

from gracile.errors import InputError
from gracile.prune.gates import Gate, gates_of, put_gates, take_gates


def where(shape: tuple[int, ...], *places: tuple[int, ...]) -> Tensor:
    found = torch.zeros(shape, dtype=torch.bool)
    for place in places:
        found[place] = True
    return found


def gate_of(model: nn.Module, name: str) -> Gate:
    [gate] = gates_of(model)[name]
    return gate


def watched(model: nn.Module, name: str) -> list[tuple[Tensor, Tensor]]:
    seen: list[tuple[Tensor, Tensor]] = []
    for gate in gates_of(model)[name]:
        gate.tap = lambda weight, gradient: seen.append((weight.clone(), gradient.clone()))
    return seen


def test_the_tap_sees_what_reaches_masked_weights():
    """Where y = w x and L = sum y, dL/dw is x everywhere, and the stored values are shown."""
    model = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0, 3.0]]))
    put_gates(model, {"weight": where((1, 3), (0, 1))})
    seen = watched(model, "weight")
    out = model(torch.tensor([[10.0, 20.0, 30.0]]))
    assert out.item() == 10 + 90
    out.sum().backward()
    [(weight, gradient)] = seen
    assert weight.tolist() == [[1, 2, 3]]
    assert gradient.tolist() == [[10, 20, 30]]
    # What the optimizer gets is masked.
    assert model.parametrizations.weight.original.grad.tolist() == [[10, 0, 30]]


def test_without_gradients_nothing_is_seen():
    model = nn.Linear(2, 2)
    put_gates(model, {"weight": where((2, 1))})
    seen = watched(model, "weight")
    with torch.no_grad():
        model(torch.randn(1, 2))
    assert seen == []


def test_each_use_of_tied_parameters_is_seen():
    model = topologies.TiedLanguageModel()
    before = list(model.state_dict())
    put_gates(model, {"head.weight": where((11, 8), (3,))})
    # Under both names, found under the first.
    assert list(gates_of(model)) == ["embedding.weight"]
    assert len(gates_of(model)["embedding.weight"]) == 2
    assert not model.embedding.weight[3].any()
    assert not model.head.weight[3].any()
    seen = watched(model, "embedding.weight")
    (model(torch.tensor([[3, 1, 2, 0, 4]])) - 1).square().sum().backward()
    assert len(seen) == 2
    # The row of the masked word gets gradients as an input and as an output.
    assert all(gradient[3].any() for _, gradient in seen)
    take_gates(model, keep_zeros=True)
    assert model.head.weight is model.embedding.weight
    assert list(model.state_dict()) == before
    assert not model.embedding.weight[3].any()


def test_zeros_given_under_several_names_of_one_parameter_add_up():
    model = topologies.TiedLanguageModel()
    put_gates(model, {"embedding.weight": where((11, 8), (1,)), "head.weight": where((11, 1), (2,))})
    assert model.head.weight.eq(0).all(1).nonzero().flatten().tolist() == [1, 2]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_modules_run_on_masked_weights(kind):
    model = kind(4, 6, num_layers=2, bidirectional=True, batch_first=True)
    plain = copy.deepcopy(model)
    zeros = where((len(model.weight_hh_l0), 1), (1,), (4,))
    with torch.no_grad():
        plain.weight_hh_l0.masked_fill_(zeros, 0)
        plain.weight_ih_l1_reverse[2] = 0
    before = list(model.state_dict())
    names = [name for name, _ in model.named_parameters()]
    put_gates(model, {"weight_hh_l0": zeros})
    # A second set on the same module.
    put_gates(model, {"weight_ih_l1_reverse": where((len(plain.weight_ih_l1_reverse), 1), (2,))})
    x = torch.randn(2, 3, 4)
    torch.testing.assert_close(model(x)[0], plain(x)[0], rtol=0, atol=0)
    seen = watched(model, "weight_hh_l0")
    model(x)[0].square().sum().backward()
    assert seen[0][1][1].any()
    assert not model.parametrizations.weight_hh_l0.original.grad[1].any()
    copied = copy.deepcopy(model)
    torch.testing.assert_close(copied(x)[0], plain(x)[0], rtol=0, atol=0)
    take_gates(model, keep_zeros=True)
    torch.testing.assert_close(model(x)[0], plain(x)[0], rtol=0, atol=0)
    assert list(model.state_dict()) == before
    assert [name for name, _ in model.named_parameters()] == names
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    # The list that torch runs on holds the parameters themselves again.
    assert model._flat_weights[0] is model.weight_ih_l0


@pytest.mark.parametrize("before", [True, False])
def test_optimizers_made_before_and_after_train_the_same_parameter(before):
    model = nn.Linear(3, 2)
    weight = model.weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1) if before else None
    put_gates(model, {"weight": where((2, 1), (0,))})
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    assert any(parameter is weight for group in optimizer.param_groups for parameter in group["params"])
    start = weight.detach().clone()
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    take_gates(model, keep_zeros=False)
    assert model.weight is weight
    assert torch.equal(weight[0], start[0])
    torch.testing.assert_close(weight[1], start[1] - 0.1)


def test_copies_have_gates_of_their_own_and_report_to_nobody():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    put_gates(model, {"0.weight": where((2, 1), (0,))})
    seen = watched(model, "0.weight")
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(gate_of(model, "0.weight")))):
        assert copied is not model
        if isinstance(copied, Gate):
            assert copied.tap is None
            continue
        copied(torch.ones(1, 2)).sum().backward()
        assert seen == []
        gate_of(copied, "0.weight").remove(where((2, 1), (1,)))
        assert copied[0].weight.any(1).tolist() == [True, False]
        assert model[0].weight.any(1).tolist() == [False, True]
        take_gates(copied, keep_zeros=True)
        assert list(copied.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
        assert model[0].weight.any(1).tolist() == [False, True]
    model(torch.ones(1, 2)).sum().backward()
    assert len(seen) == 1


@pytest.mark.parametrize("first", [0, 1])
def test_two_sets_go_in_either_order(first):
    model = nn.Linear(3, 2)
    values = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    put_gates(model, {"bias": where((2,), (1,))})
    mine = gates_of(model)["bias"]
    put_gates(model, {"weight": where((2, 1), (1,))})
    sets = [mine, gates_of(model)["weight"]]
    take_gates(model, keep_zeros=False, only=sets[first])
    assert list(gates_of(model)) == [("weight", "bias")[first]]
    take_gates(model, keep_zeros=False, only=sets[1 - first])
    assert list(gates_of(model)) == []
    assert type(model) is nn.Linear
    assert list(model.state_dict()) == ["weight", "bias"]
    assert all(torch.equal(tensor, values[name]) for name, tensor in model.state_dict().items())


def test_what_is_assigned_is_stored_and_masked():
    model = nn.Linear(2, 2)
    put_gates(model, {"weight": where((2, 1), (0,))})
    model.weight = torch.full((2, 2), 5.0)
    assert model.weight.tolist() == [[0, 0], [5, 5]]
    take_gates(model, keep_zeros=False)
    assert model.weight.tolist() == [[5, 5], [5, 5]]


def test_foreign_parametrizations_are_refused_and_left_alone():
    model = topologies.parametrized()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=r"2\.weight is parametrized; make it plain"):
        put_gates(model, {"2.bias": where((2,)), "2.weight": where((2, 1, 1, 1))})
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model = nn.Linear(2, 2)
    put_gates(model, {"weight": where((2, 1))})
    nn.utils.parametrize.register_parametrization(model, "weight", topologies.Doubled())
    with pytest.raises(InputError, match="weight has parametrizations besides its mask"):
        take_gates(model, keep_zeros=True)


def test_masks_follow_the_model_to_another_type():
    model = nn.Linear(2, 2)
    put_gates(model, {"weight": where((2, 1), (0,))})
    model.double()
    assert gate_of(model, "weight").removed.dtype == torch.bool
    assert model(torch.ones(1, 2).double()).dtype == torch.float64
