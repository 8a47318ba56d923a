"""What criteria see on data, against tiny networks worked out by hand."""

import copy

import pytest
import topologies
import torch
from torch import Tensor, nn

import gracile
from gracile.errors import EvaluationError, InputError
from gracile.prune import gather, mask, register_criterion, sparsify
from gracile.prune.gathering import Inputs, gathering_for
from gracile.prune.scores import _CRITERIA, CRITERIA
from gracile.testing import assert_equivalent

DATA = ("apoz", "mean_activation", "taylor_activation", "taylor", "obd")


def two_layers() -> nn.Sequential:
    """The function y = v relu(W x), with weights that are easy to reckon with."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [1.0, -1.0]]))
        model[2].weight.copy_(torch.tensor([[2.0, 3.0]]))
    return model


# relu(W x): [1, 0] and [3, 2] in the first batch, [0, 1] in the second.
BATCHES = [torch.tensor([[1.0, 2.0], [3.0, 1.0]]), torch.tensor([[0.0, -1.0]])]


def summed(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).sum()


def seen(criterion: str, name: str, model: nn.Module | None = None, batches=BATCHES, loss=summed, **options) -> Tensor:
    return gather(model or two_layers(), [name], criterion, batches, loss, **options)[name].squeeze(0)


def test_apoz():
    # Of the three examples, whichever batches they are in, the third has a zero in the first channel, the first in the
    # second one.
    assert seen("apoz", "2.weight").tolist() == pytest.approx([1 / 3, 1 / 3])


def test_mean_activation():
    assert seen("mean_activation", "2.weight").tolist() == pytest.approx([(1 + 3 + 0) / 3, (0 + 2 + 1) / 3])


@pytest.mark.parametrize("criterion", ["apoz", "mean_activation", "taylor_activation"])
def test_a_smaller_last_batch_counts_by_its_examples(criterion):
    model = nn.Sequential(nn.Conv1d(2, 3, 1), nn.ReLU(), nn.Conv1d(3, 1, 3))
    data = torch.randn(7, 2, 5, generator=torch.Generator().manual_seed(0))
    whole = seen(criterion, "2.weight", model, [data])
    torch.testing.assert_close(seen(criterion, "2.weight", model, list(data.split(4))), whole)


def test_taylor_activation():
    # The gradient is [2, 3]: |g a| is [2, 0] and [6, 6], then [0, 3]; rows of a linear layer are examples.
    assert seen("taylor_activation", "2.weight").tolist() == pytest.approx([(2 + 6 + 0) / 3, (0 + 6 + 3) / 3])


def test_taylor_activation_averages_over_positions_first():
    model = nn.Sequential(nn.Conv1d(1, 1, 1, bias=False), nn.Conv1d(1, 1, 1, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(1)
        model[1].weight.fill_(2)
    batch = torch.tensor([[[1.0, -3.0]], [[5.0, 1.0]]])
    # g a = [2, -6] and [10, 2]: |-2| and |6|.
    assert seen("taylor_activation", "1.weight", model, [batch]).item() == 4


def test_taylor():
    # dL/dv is the sum of activations: [4, 2] and [0, 1]; times v = [2, 3]: [8, 6] and [0, 3].
    assert seen("taylor", "2.weight").tolist() == [(64 + 0) / 2, (36 + 9) / 2]
    # dL/dW_1 = 2 (x_a + x_b) = [8, 6] then [0, 0]; dL/dW_2 = 3 [3, 1] then 3 [0, -1]; times W.
    assert gather(two_layers(), ["0.weight"], "taylor", BATCHES, summed)["0.weight"].tolist() == [
        [64 / 2, 0],
        [81 / 2, (9 + 9) / 2],
    ]


class Quadratic(nn.Module):
    """L = sum_i c_i w_i^2 / 2 + w_0 w_1 x: the Hessian's diagonal is c."""

    def __init__(self, curvature: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(1.0, 1 + len(curvature)))
        self.curvature = curvature

    def forward(self, x: Tensor) -> Tensor:
        return (self.curvature * self.weight**2 / 2).sum() + self.weight[0] * self.weight[1] * x.mean()


def test_optimal_brain_damage_is_exact_where_the_hessian_is_diagonal():
    model = Quadratic(torch.tensor([2.0, 1.0, 0.5]))
    found = gather(model, ["weight"], "obd", [torch.zeros(1)], lambda model, x: model(x))["weight"]
    assert found.tolist() == [2 * 1 / 2, 1 * 4 / 2, 0.5 * 9 / 2]


def test_optimal_brain_damage_converges_on_the_diagonal_and_averages_batches():
    model = Quadratic(torch.tensor([2.0, 1.0, 0.5]))
    # H_01 = x: one draw is off by x v_0 v_1; the mean over many draws is not.
    batches = [torch.ones(1)] * 400
    exact = torch.tensor([1.0, 2.0, 2.25]).double()
    found = gather(model, ["weight"], "obd", batches, lambda model, x: model(x))["weight"]
    # Off by w^2 / 2 times the mean of 400 signs, which is 0.05 on average.
    torch.testing.assert_close(found, exact, rtol=0, atol=0.3)
    assert not torch.equal(found, exact)
    one = gather(model, ["weight"], "obd", batches[:1], lambda model, x: model(x), seed=3)["weight"]
    assert abs(one[0] - exact[0]) == pytest.approx(0.5)
    # Twice the loss in every second batch: one and a half times the diagonal.
    factors = [torch.zeros(1), torch.zeros(1) + 1]
    found = gather(model, ["weight"], "obd", factors, lambda model, x: model(0 * x) * (1 + x.mean()))["weight"]
    torch.testing.assert_close(found, 1.5 * exact)


def test_optimal_brain_damage_of_what_is_linear_is_zero():
    assert not seen("obd", "2.weight", loss=summed).any()


@pytest.mark.parametrize("make", [topologies.GroupedQueryAttention, topologies.encoder])
def test_attention_has_second_derivatives(make):
    model = make()
    names = [name for name, parameter in model.named_parameters() if parameter.ndim > 1]
    found = gather(model, names, "obd", [topologies.tokens(2)], lambda model, x: model(x).square().sum())
    assert set(found) == set(names)
    assert all(value.isfinite().all() and value.any() for value in found.values())


def test_a_layer_that_is_used_twice_counts_each_use():
    """The second use reads what the first wrote."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2, bias=False)
            with torch.no_grad():
                self.layer.weight.copy_(torch.tensor([[0.0, 2.0], [0.0, 4.0]]))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x))

    x = torch.tensor([[1.0, 3.0]])
    # Reads [1, 3], then [6, 12].
    assert seen("mean_activation", "layer.weight", Twice(), [x]).tolist() == [3.5, 7.5]
    # L = 2 y_1 + 4 y_1 where y_1 = 4 x_1: through the second use dL/dW = [[6, 12], [6, 12]]; through the first, with
    # dL/dy = [0, 6], it is [[0, 0], [6, 18]].  Their sum times W, squared: (12 * 2)^2 and (30 * 4)^2.
    assert seen("taylor", "layer.weight", Twice(), [x]).tolist() == [[0, 576], [0, 14400]]


@pytest.mark.parametrize("criterion", DATA)
def test_the_model_is_left_as_it_was(criterion):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 1)
    )
    model.train()
    model[1].eval()
    model(topologies.images(2)).sum().backward()
    before, gradients = copy.deepcopy(model.state_dict()), [p.grad.clone() for p in model.parameters()]
    held = [p.grad for p in model.parameters()]
    modes = [module.training for module in model.modules()]
    batches = [topologies.images(2)]

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        # Without dropout, and by the running statistics.
        assert not any(module.training for module in model.modules())
        return model(batch).square().sum()

    names = [name for name, _ in model.named_parameters()]
    first = gather(model, names, criterion, batches, loss)
    again = gather(model, names, criterion, batches, loss)
    assert first
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert all(
        p.grad is kept and torch.equal(kept, g) for p, kept, g in zip(model.parameters(), held, gradients, strict=True)
    )
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert type(model[0]) is nn.Conv2d


@pytest.mark.parametrize("criterion", DATA)
def test_a_loss_that_fails_leaves_nothing_behind(criterion):
    model = two_layers()

    def failing(model: nn.Module, batch: Tensor) -> Tensor:
        model(batch)
        raise ZeroDivisionError

    class Broken:
        def __iter__(self):
            yield BATCHES[0]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        gather(model, ["2.weight", "0.weight"], criterion, Broken(), failing)
    assert list(model.state_dict()) == ["0.weight", "2.weight"]
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_masks_of_the_model_stay_and_count():
    model = two_layers()
    masked = mask(model, {"0.weight": torch.tensor([[False, True], [True, True]])})
    keys = list(masked.state_dict())
    found = gather(masked, ["0.weight", "2.weight"], "taylor", BATCHES, summed)
    assert list(masked.state_dict()) == keys
    # relu(W x) is [0, 0] and [0, 2], then [0, 1]: the gradient of v is [0, 2], then [0, 1].
    assert found["2.weight"].tolist() == [[0, (36 + 9) / 2]]
    assert gather(masked, ["0.weight"], "obd", BATCHES, lambda m, x: m(x).square().sum())["0.weight"][0, 0] == 0


def test_half_precision_keeps_small_products():
    model = nn.Linear(1, 1, bias=False).bfloat16()
    with torch.no_grad():
        model.weight.fill_(1e-20)
    found = gather(model, ["weight"], "taylor", [torch.full((1, 1), 1e-20).bfloat16()], summed)["weight"]
    assert found.item() == pytest.approx(1e-80, rel=0.05)


def test_transposed_and_unbatched_convolutions():
    model = nn.Sequential(nn.ConvTranspose1d(2, 3, 1), nn.Conv1d(3, 1, 1))
    x = torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 3.0]])
    found = gather(model, ["0.weight"], "apoz", [x], None)["0.weight"]
    # Inputs lie along the first axis of a transposed convolution's weight.
    assert found.shape == (2, 1, 1)
    torch.testing.assert_close(found.flatten(), torch.tensor([1 / 3, 2 / 3]).double())


def test_in_training_only_steps_of_training_are_seen():
    model = two_layers()
    gathering = gathering_for("mean_activation", model, ["2.weight"])
    assert isinstance(gathering, Inputs)
    model.eval()
    model(BATCHES[0])
    model.train()
    with torch.no_grad():
        model(BATCHES[0])
    assert gathering.statistics() == {}
    model(BATCHES[1])
    assert gathering.statistics()["2.weight"].tolist() == [[0, 1]]
    gathering.close()
    model(BATCHES[0])
    assert gathering.statistics()["2.weight"].tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda model, batch: 1.0, "loss returned 1.0; return a tensor of one element"),
        (lambda model, batch: model(batch), "return a tensor of one element"),
        (lambda model, batch: model(batch).sum().detach(), "without a gradient; compute it from the model's outputs"),
        (lambda model, batch: model(batch).sum() / 0, "loss returned inf; give batches on which it is finite"),
    ],
)
@pytest.mark.parametrize("criterion", ["taylor", "taylor_activation", "obd"])
def test_a_wrong_loss_is_named(criterion, loss, message):
    with pytest.raises(EvaluationError, match=message):
        gather(two_layers(), ["2.weight"], criterion, BATCHES, loss)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["2.weight"], "taylor", BATCHES, None), "criterion='taylor' looks at gradients: give loss"),
        ((["2.weight"], "apoz", [], None), "there is no batch"),
        ((["2.weight"], "taylor", [], summed), "there is no batch"),
        ((["2.weight"], "obd", iter([]), summed), "there is no batch"),
        ((["2.weight"], "l2", BATCHES, summed), "criterion='l2' does not look at batches"),
        ((["2.weight"], "movement", BATCHES, summed), "'movement' does not look at batches but at training"),
        ((["2.weight"], "nothing", BATCHES, summed), "criterion is 'nothing'"),
        ((["9.weight"], "obd", BATCHES, summed), "no parameter '9.weight'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        gather(two_layers(), *arguments)


# Criteria that look at data through the public functions.


def labelled() -> list[tuple[Tensor, Tensor]]:
    draws = torch.Generator().manual_seed(5)
    return [(torch.randn(4, 3, 8, 8, generator=draws), torch.randint(0, 4, (4,), generator=draws)) for _ in range(3)]


def entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize("criterion", DATA)
def test_prune_plan_takes_them(criterion):
    model, inputs = topologies.chain(), topologies.images(2)
    arguments = {"criterion": criterion, "sparsity": 0.5, "calibration": labelled(), "loss": entropy}
    plan = gracile.prune.plan(model, inputs, **arguments)
    assert plan == gracile.prune.plan(model, inputs, **arguments)
    assert_equivalent(model, plan, inputs)
    assert gracile.apply(model, plan)[0].out_channels == 3


def test_prune_plan_removes_what_taylor_finds_useless():
    """Two of the channels go nowhere: their consumers' weights are almost zero."""
    model = topologies.chain()
    with torch.no_grad():
        model[4].weight[:, [1, 4]] *= 1e-6
    plan = gracile.prune.plan(
        model, topologies.images(2), criterion="taylor", sparsity={"0": 1 / 3}, calibration=labelled(), loss=entropy
    )
    [edit] = [edit for edit in plan.edits if edit.tensor == "0.weight"]
    assert edit.keep == (0, 2, 3, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"criterion": "taylor", "calibration": None, "loss": entropy}, "'taylor' looks at data: give calibration"),
        ({"criterion": "taylor"}, "looks at gradients: give loss, as loss=lambda model, batch"),
        ({"criterion": "taylor", "loss": "entropy"}, "loss is a str; give a function from the model and a batch"),
        ({"criterion": "apoz", "calibration": None}, "'apoz' looks at data: give calibration"),
        ({"criterion": "apoz", "calibration": []}, "calibration yields no batch"),
        ({"criterion": "obd", "calibration": [], "loss": entropy}, "calibration yields no batch"),
        ({"criterion": "movement"}, "learns its scores in training: take gracile.prepare with gracile.Pruning"),
    ],
)
@pytest.mark.parametrize("whole", [False, True])
def test_what_is_missing_is_named(arguments, message, whole):
    arguments = {"calibration": labelled(), **arguments}
    model, inputs = topologies.chain(), topologies.images(2)
    if whole:
        arguments |= {"evaluate": lambda model: 0.0, "target": gracile.Target(macs=0.7), "method": "prune"}
    with pytest.raises(InputError, match=message):
        (gracile.compress if whole else gracile.prune.plan)(model, inputs, **arguments, **({} if whole else HALF))


HALF = {"sparsity": 0.5}


def test_compress_takes_a_criterion_with_a_loss(tmp_path):
    model = topologies.chain().eval()

    def score(candidate: nn.Module) -> float:
        return -float(sum(entropy(candidate, batch).detach() for batch in labelled()))

    def compressed() -> gracile.Result:
        return gracile.compress(
            model, topologies.images(2), evaluate=score, target=gracile.Target(macs=0.7), method="prune",
            criterion="taylor", calibration=labelled(), loss=entropy, round_to=1, store=str(tmp_path / "x.db"),
        )  # fmt: skip

    result = compressed()
    assert result.report.ratio("macs") <= 0.7
    assert result.plan == compressed().plan


@pytest.fixture
def registered():
    before = dict(_CRITERIA)
    yield register_criterion
    _CRITERIA.clear()
    _CRITERIA.update(before)


def peak(values: Tensor) -> Tensor:
    return values.amax((1, 2))


def test_an_own_criterion_on_inputs(registered):
    registered("peak", peak, sees="inputs")
    assert "peak" in CRITERIA
    # The largest activations of the batches are [3, 2], of two examples, and [0, 1].
    assert seen("peak", "2.weight").tolist() == pytest.approx([(2 * 3 + 0) / 3, (2 * 2 + 1) / 3])
    plan = gracile.prune.plan(topologies.chain(), topologies.images(2), criterion="peak", sparsity=0.5,
                              calibration=labelled())  # fmt: skip
    assert plan.edits


def test_an_own_criterion_on_gradients(registered):
    registered("size", lambda products: products.abs(), sees="weight_products")
    assert seen("size", "2.weight").tolist() == [(8 + 0) / 2, (6 + 3) / 2]
    registered("size", lambda products: products.sum((1, 2)).abs(), sees="input_products")
    # g a is [2 + 6, 0 + 6], of two examples, then [0, 3].
    assert seen("size", "2.weight").tolist() == pytest.approx([(2 * 8 + 0) / 3, (2 * 6 + 3) / 3])
    with pytest.raises(InputError, match="'size' looks at gradients: give loss"):
        gracile.prune.plan(
            topologies.chain(), topologies.images(2), criterion="size", sparsity=0.5, calibration=labelled()
        )
    assert gracile.prune.plan(
        topologies.chain(), topologies.images(2), criterion="size", sparsity=0.5, calibration=labelled(), loss=entropy
    ).edits


def test_an_own_criterion_on_weights_with_a_name(registered):
    registered("largest", lambda matrix: matrix.abs().amax(1))
    model, inputs = topologies.chain(), topologies.images(2)
    named = gracile.prune.plan(model, inputs, criterion="largest", sparsity=0.5)
    assert named == gracile.prune.plan(model, inputs, criterion=lambda matrix: matrix.abs().amax(1), sparsity=0.5)


def test_an_own_criterion_of_the_wrong_shape_is_named(registered):
    registered("wrong", lambda values: values.mean(2), sees="inputs")
    with pytest.raises(
        InputError, match=r"returned the shape \[2, 2\] for what 2.weight saw .* return the shape \[2\]"
    ):
        seen("wrong", "2.weight")
    registered("wrong", lambda products: products.sum(1), sees="weight_products")
    with pytest.raises(InputError, match=r"return the shape \[1, 2\]"):
        seen("wrong", "2.weight")
    registered("wrong", lambda values: None, sees="inputs")
    with pytest.raises(InputError, match="returned a NoneType"):
        seen("wrong", "2.weight")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("l2", peak), "cannot be registered as 'l2'"),
        (("elimination", peak), "cannot be registered as 'elimination'"),
        ((3, peak), "cannot be registered as 3"),
        (("own", 3), "the formula of 'own' is a int"),
        (("own", peak, "outputs"), "sees is 'outputs'; it is 'weights'"),
    ],
)
def test_bad_registrations_are_refused(registered, arguments, message):
    name, formula, *sees = arguments
    with pytest.raises(InputError, match=message):
        registered(name, formula, **({"sees": sees[0]} if sees else {}))
    assert "own" not in CRITERIA


def test_sparsify_takes_what_was_gathered():
    model = two_layers()
    statistics = gather(model, ["0.weight", "2.weight"], "taylor", BATCHES, summed)
    masks = sparsify(model, {"0": 0.5}, criterion="taylor", statistics=statistics)
    # [[32, 0], [40.5, 9]]
    assert masks["0.weight"].tolist() == [[True, False], [True, False]]
