"""The simulation as a module: exactness, modes, training, copies, files."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from nets import SmallNet, images, trained_like
from quant_nets import Concatenated, Encoder, Mobile, Residual, sentences
from torch import Tensor, nn
from torch.nn import functional

import gracile
from gracile.errors import InputError, PlanError
from gracile.export.checkpoint import save
from gracile.graph import capture
from gracile.maths.fake_quant import fake_quantize
from gracile.plan import Plan
from gracile.quant import Quantizer, QuantSpec, fit_weights, fold_plan
from gracile.quant_edits import Quantize, ScaleChannels
from gracile.surgery import swapped


def residual(**fields: Any) -> tuple[nn.Module, gracile.quant.Simulation]:
    model = trained_like(Residual())
    given = {"calibration": [images(4, seed=seed) for seed in range(3)]} | fields
    return model, gracile.quantize(model, images(), **given)


def test_the_block_equals_its_formula() -> None:
    model, simulation = residual()
    folded = gracile.apply(model, fold_plan(model, capture(model, images()))[0])
    q, w = simulation.named_quantizers("activation"), simulation.named_quantizers("weight")

    def fake(value: Tensor, item: Quantizer) -> Tensor:
        return fake_quantize(value, item.scale, item.zero_point, item.spec)

    def conv(value: Tensor, name: str) -> Tensor:
        layer = folded.get_submodule(name)
        return functional.conv2d(value, fake(layer.weight, w[f"{name}_weight"]), layer.bias, padding=1)

    with torch.no_grad():
        x = fake(images(5), q["x"])
        x = fake(conv(x, "conv1").relu(), q["relu_relu"])
        y = fake((fake(conv(x, "conv2"), q["conv2_conv2d"]) + x).relu(), q["relu_relu_2"])
        y = fake(y.mean((2, 3)), q["pool_adaptive_avg_pool2d"])
        wanted = fake(functional.linear(y, fake(folded.fc.weight, w["fc_weight"]), folded.fc.bias), q["fc_linear"])
        found = simulation(images(5))
    # Sums in another order may round to the next level.
    assert ((found - wanted).abs() / q["fc_linear"].scale).max() <= 1.01
    assert (found == wanted).float().mean() > 0.8


@pytest.mark.parametrize("name", ["residual", "concatenated", "mobile", "small", "encoder"])
def test_without_quantizers_it_computes_what_the_model_does(name: str) -> None:
    nets = {"residual": Residual, "concatenated": Concatenated, "mobile": Mobile, "small": SmallNet, "encoder": Encoder}
    model = trained_like(nets[name]()).double()
    inputs: Any = sentences(2) if name == "encoder" else torch.randn(2, 4 if name == "mobile" else 3, 8, 8).double()
    simulation = gracile.quantize(model, inputs, calibration=[inputs])
    # Another batch size than the example's.
    more = sentences(5, seed=1) if name == "encoder" else torch.randn(5, *inputs.shape[1:]).double()
    with torch.no_grad(), simulation.only(weights=False, activations=False):
        wanted, found = (net(**more)["logits"] if name == "encoder" else net(more) for net in (model, simulation))
        assert (found - wanted).abs().max() <= 1e-10 * wanted.abs().max()
    with torch.no_grad():
        found = simulation(**more)["logits"] if name == "encoder" else simulation(more)
    relative = float((found - wanted).norm() / wanted.norm())
    assert 1e-6 < relative < 0.1


def test_names_are_the_models() -> None:
    _, simulation = residual()
    own = {name for name in simulation.state_dict() if not name.startswith("quantizers.")}
    assert own == {"conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias", "fc.weight", "fc.bias"}
    assert simulation.sites["relu_relu"] == ("relu_",)
    encoder = gracile.quantize(Encoder(), sentences(), activations=None)
    assert encoder.head.weight is encoder.words.weight
    names = [name for name, _ in encoder.named_parameters()]
    assert "words.weight" in names
    assert "head.weight" not in names


def test_modes_and_dropout() -> None:
    _, simulation = residual()
    assert not simulation.training
    assert torch.equal(simulation(images()), simulation(images()))
    simulation.train()
    assert not torch.equal(simulation(images()), simulation(images()))
    simulation.eval()
    assert torch.equal(simulation(images()), simulation(images()))
    encoder = gracile.quantize(trained_like(Encoder()), sentences(), calibration=[sentences()]).train()
    # Its only dropout is inside of the attention.
    assert not torch.equal(encoder(**sentences())["logits"], encoder(**sentences())["logits"])


def test_it_trains() -> None:
    _, simulation = residual(weights="int4", activations="uint4")
    optimizer = torch.optim.SGD(simulation.parameters(), lr=0.05)
    target = torch.randn(2, 4)
    losses = []
    simulation.train()
    simulation.drop.p = 0.0
    torch.manual_seed(0)
    for _ in range(30):
        loss = (simulation(images()) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in simulation.parameters())
        optimizer.step()
        fit_weights(simulation)
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_copies_precisions_and_compilers() -> None:
    _, simulation = residual()
    twin = copy.deepcopy(simulation)
    with torch.no_grad():
        assert torch.equal(twin(images()), simulation(images()))
        twin.conv1.weight.mul_(2)
        assert not torch.equal(twin(images()), simulation(images()))
        wide = copy.deepcopy(simulation).double()
        half = copy.deepcopy(simulation).bfloat16().float()
    assert wide(images().double()).dtype is torch.float64
    name = "fc_linear"
    for other in (wide, half):
        scale = other.named_quantizers()[name].scale
        assert scale.dtype is torch.float32
        assert torch.equal(scale, simulation.named_quantizers()[name].scale)
    compiled = torch.compile(simulation, backend="eager")
    torch.testing.assert_close(compiled(images()), simulation(images()))


@pytest.mark.parametrize("name", ["residual", "encoder", "blocks"])
def test_saved_and_loaded_bit_for_bit(name: str, tmp_path: Path) -> None:
    if name == "encoder":
        fresh, inputs, fields = Encoder, sentences(), {"calibration": [sentences()]}
    else:
        fresh, inputs, fields = Residual, images(), {"calibration": [images()]}
    if name == "blocks":
        fields = {"weights": QuantSpec(bits=4, granularity={"per": "block", "size": 2}), "activations": None}
    simulation = gracile.quantize(trained_like(fresh()), inputs, **fields)
    save(tmp_path / "saved", simulation)
    loaded = gracile.load(tmp_path / "saved", fresh()).eval()
    outputs = [net(**inputs)["logits"] if name == "encoder" else net(inputs) for net in (simulation, loaded)]
    assert torch.equal(*outputs)
    assert gracile.applied_plan(loaded) == gracile.applied_plan(simulation)
    assert Plan.from_json(gracile.applied_plan(loaded).to_json()) == gracile.applied_plan(loaded)


def test_pruned_and_factorized_models(tmp_path: Path) -> None:
    model = trained_like(SmallNet())
    small = gracile.apply(model, gracile.prune.plan(model, images(), sparsity=0.5, round_to=1))
    simulation = gracile.quantize(small, images(), calibration=[images(8)])
    save(tmp_path / "saved", simulation)
    assert torch.equal(gracile.load(tmp_path / "saved", SmallNet()).eval()(images()), simulation(images()))


def test_swapped_takes_quantizers_out_again() -> None:
    _, simulation = residual(activations=None)
    before, names = simulation(images()), set(simulation.quantizers)
    extra = Quantize(name="extra", role="activation", sites=("linear",), spec=gracile.quant.quant_spec("uint8"))
    with swapped(simulation, [extra]):
        assert simulation(images()).isnan().all()
        simulation.quantizers["extra"].set_range(torch.tensor(-1.0), torch.tensor(1.0))
        assert simulation(images()).abs().max() <= 1.01
    assert torch.equal(simulation(images()), before)
    assert set(simulation.quantizers) == names
    with (
        pytest.raises(PlanError, match="has no value 'nowhere'"),
        swapped(simulation, [extra.model_copy(update={"sites": ("nowhere",)})]),
    ):
        pass
    with pytest.raises(PlanError, match="is no simulation"):
        gracile.apply(Residual(), Plan(edits=(extra,)))


def test_factors_stand_before_a_quantizer_and_go_again() -> None:
    _, simulation = residual()
    before = simulation(images())
    edit = ScaleChannels(quantizer="pool_adaptive_avg_pool2d", shape=(1, 6, 1, 1))
    assert Plan.from_json(Plan(edits=(edit,)).to_json()).edits == (edit,)
    plan = Plan(edits=(edit,))
    plain = capture(Residual(), images())
    assert plan.cost(plain).bytes == Plan().cost(plain).bytes + 4 * 6
    with swapped(simulation, [edit]):
        assert torch.equal(simulation(images()), before)
        simulation.get_buffer("quantizers.pool_adaptive_avg_pool2d_factors.factors").fill_(0)
        bias = simulation.fc.bias
        torch.testing.assert_close(simulation(images()), bias.expand_as(before), atol=0.05, rtol=0)
        with pytest.raises(PlanError, match="has factors already"), swapped(simulation, [edit]):
            pass
    assert torch.equal(simulation(images()), before)
    for name in ("nothing", "fc_weight"):
        with pytest.raises(PlanError, match=f"no quantizer '{name}' of one activation"):
            gracile.apply(simulation, Plan(edits=(edit.model_copy(update={"quantizer": name}),)))
    with pytest.raises(PlanError, match="is no simulation"):
        gracile.apply(Residual(), plan)


def test_weights_only_needs_no_data_and_naive_is_one_scale() -> None:
    _, simulation = residual(calibration=None, activations=None)
    assert not simulation.named_quantizers("activation")
    model, naive = residual(calibration=None, method="naive")
    item = naive.named_quantizers()["fc_weight"]
    assert float(item.scale) == pytest.approx(float(model.fc.weight.detach().abs().max()) / 127)
    assert not naive.named_quantizers("activation")


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="activations need calibration data"):
        residual(calibration=None)
    with pytest.raises(InputError, match="method is 'qat'"):
        residual(method="qat")
    with pytest.raises(InputError, match="nothing is left to quantize"):
        residual(exclude=["*"])
    with pytest.raises(InputError, match="infinities or NaN"):
        residual(calibration=[torch.full((2, 3, 10, 10), float("inf"))])
    with pytest.raises(InputError, match="parametrized"):
        gracile.quantize(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), torch.ones(1, 3), activations=None)


class Named(dict[str, Any]):
    """A model's own class of results."""


torch.utils._pytree.register_pytree_node(
    Named, lambda item: (list(item.values()), list(item)), lambda values, keys: Named(zip(keys, values, strict=True))
)


def test_results_of_a_class_of_its_own() -> None:
    class Net(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return Named(first=super().forward(x), second=x)

    simulation = gracile.quantize(Net(3, 2), torch.ones(1, 3), activations=None)
    found = simulation(torch.ones(4, 3))
    assert found.first is found["first"]
    assert found[1] is found.second
    assert found[:2] == (found.first, found.second)
    with pytest.raises(AttributeError, match="third"):
        _ = found.third
