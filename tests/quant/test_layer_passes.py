"""Passes over the layers of a simulation: what they see is what the simulation computes, and errors shrink."""

import pytest
import torch
from torch import nn

from gracile.errors import InputError
from gracile.graph import eval_mode
from gracile.inputs import Inputs
from gracile.maths.adaround import Rounding
from gracile.quant.bias_correction import correct_bias, correct_bias_analytically
from gracile.quant.gptq import round_sequentially
from gracile.quant.lockstep import Lockstep
from gracile.quant.method import quantize
from gracile.quant.output_ranges import fit_weights_to_outputs
from gracile.quant.rounding import adaround
from gracile.quant.weighted import quantizer_of, values_of, weighted_layers


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, stride=2, padding="valid", groups=8)
        self.point = nn.Conv2d(8, 8, 1)
        self.classifier = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x).clamp(0, 6)
        y = self.depthwise(x).relu()
        y = y + self.point(y).relu()
        return self.classifier(y.mean((2, 3)))


def batches():
    generator = torch.Generator().manual_seed(1)
    # Neighbouring channels and pixels agree, as in images.
    coarse = torch.randn(96, 1, 4, 4, generator=generator).repeat_interleave(2, 2).repeat_interleave(2, 3)
    return list((coarse + 0.3 * torch.randn(96, 3, 8, 8, generator=generator) + 0.5).split(32))


BATCHES = batches()
EXAMPLE = Inputs.of(BATCHES[0])


def simulated(weights="int4", activations="uint8"):
    torch.manual_seed(0)
    model = Small().eval()
    simulation = quantize(model, BATCHES[0], calibration=BATCHES, weights=weights, activations=activations)
    return model, simulation


@torch.no_grad()
def error(model, simulation):
    with eval_mode(simulation):
        return float(sum((simulation(batch) - model(batch)).square().mean() for batch in BATCHES))


def test_layers_are_found_with_their_rectifiers():
    _, simulation = simulated()
    layers, left = weighted_layers(simulation)
    assert left == {}
    assert [layer.name for layer in layers] == ["stem", "depthwise", "point", "classifier"]
    assert [layer.rectifier is not None for layer in layers] == [True, True, True, False]
    shape = layers[1].shape(values_of(simulation, layers[1])[0])
    assert (shape.groups, shape.stride, shape.padding) == (8, (2, 2), ((0, 0), (0, 0)))


def test_lockstep_shows_what_the_changed_simulation_and_the_original_compute():
    model, simulation = simulated()
    layers, _ = weighted_layers(simulation)
    seen = {}
    for name in ("depthwise", "point", "classifier"):
        model.get_submodule(name).register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0]}))
    states = Lockstep(simulation, [EXAMPLE.like(batch) for batch in BATCHES])
    with torch.no_grad():
        model(BATCHES[1])
    for layer in layers:
        states.reach(layer)
        if layer.name != "stem":
            torch.testing.assert_close(states.original_inputs(layer)[1], seen[layer.name])
        weight, bias = values_of(simulation, layer)
        states.change(layer.weight, 1.5 * weight)
        states.change(layer.bias, bias + 1)
    # The last layer's inputs, and so its results in front of their quantizer, are those of the simulation as it is now.
    last = layers[-1]
    list(simulation.named_quantizers("activation").values())[-1].enabled = False
    with torch.no_grad():
        weight, bias = values_of(simulation, last)
        found = last.output(states.inputs(last)[1], quantizer_of(simulation, last)(weight), bias)
        torch.testing.assert_close(found, simulation(BATCHES[1]))


@pytest.mark.parametrize(
    "change",
    [
        lambda s: adaround(s, BATCHES, EXAMPLE, settings=Rounding(iterations=150, learning_rate=0.05, batch=16)),
        lambda s: round_sequentially(s, BATCHES, EXAMPLE),
        lambda s: round_sequentially(s, BATCHES, EXAMPLE, act_order=False),
        lambda s: correct_bias(s, BATCHES, EXAMPLE),
    ],
    ids=["adaround", "gptq", "gptq_left_to_right", "bias"],
)
def test_errors_shrink_and_passes_repeat(change):
    model, simulation = simulated("int3")
    before = error(model, simulation)
    record = change(simulation)
    assert record.changed == ("stem", "depthwise", "point", "classifier")
    assert error(model, simulation) < 0.8 * before
    # Rounded weights stand on their levels.
    if record.name != "bias_correction":
        for layer in weighted_layers(simulation)[0]:
            weight, _ = values_of(simulation, layer)
            torch.testing.assert_close(quantizer_of(simulation, layer)(weight), weight, rtol=1e-6, atol=1e-7)
    again = simulated("int3")[1]
    change(again)
    for name, value in simulation.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_gptq_of_a_depthwise_convolution_is_that_of_each_channel_alone():
    torch.manual_seed(0)
    data = torch.randn(4, 3, 6, 6).cumsum(-1)
    together = nn.Conv2d(3, 3, 3, groups=3).eval()
    found = quantize(together, data, weights="int3", activations=None)
    record = round_sequentially(found, [data], Inputs.of(data))
    for channel in range(3):
        alone, part = nn.Conv2d(1, 1, 3).eval(), data[:, channel : channel + 1].contiguous()
        alone.load_state_dict({name: value[channel : channel + 1] for name, value in together.state_dict().items()})
        single = quantize(alone, part, weights="int3", activations=None)
        round_sequentially(single, [part], Inputs.of(part))
        torch.testing.assert_close(found.state_dict()["weight"][channel], single.state_dict()["weight"][0])
    [share] = [value for value in record.details.values() if isinstance(value, float)]
    assert share < 0.9


def test_ranges_by_outputs_are_no_worse_than_full_ones():
    model, simulation = simulated("int3", None)
    before = error(model, simulation)
    record = fit_weights_to_outputs(simulation, BATCHES, EXAMPLE)
    assert record.changed == ("stem", "depthwise", "point", "classifier")
    assert error(model, simulation) < before


@pytest.mark.parametrize("loss", ["mse", "l1"])
@pytest.mark.parametrize("inputs", ["quantized", "original", "each"])
def test_ranges_by_outputs_take_the_share_of_least_loss(loss, inputs):
    """One layer reads the same in the simulation and in the original, so that every share can be tried by hand."""
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Conv2d(4, 3, 3, bias=False)).eval(), torch.randn(6, 4, 5, 5)
    simulation = quantize(model, data, weights="int3", activations=None)
    fit_weights_to_outputs(simulation, [data], Inputs.of(data), candidates=8, loss=loss, inputs=inputs)
    quantizer = simulation.named_quantizers("weight")["0_weight"]
    found, weight = quantizer.scale.clone(), model[0].weight.detach()
    full, lost = weight.flatten(1).abs().amax(1), []
    for share in range(1, 9):
        quantizer.set_range(-full * share / 8, full * share / 8)
        away = (simulation(data) - model(data)).detach().double()
        lost.append((away.abs() if loss == "l1" else away.square()).sum((0, 2, 3)))
    best = (torch.stack(lost).argmin(0) + 1) / 8
    torch.testing.assert_close(found.flatten() / quantizer.scale.flatten(), best)


def test_ranges_by_outputs_of_rounded_inputs_differ_from_those_of_the_original():
    found = []
    for inputs in ("quantized", "original", "each"):
        _, simulation = simulated("int3", "uint3")
        fit_weights_to_outputs(simulation, BATCHES, EXAMPLE, inputs=inputs)
        found.append(torch.cat([q.scale.flatten() for q in simulation.named_quantizers("weight").values()]))
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_ranges_by_outputs_name_a_wrong_option():
    _, simulation = simulated("int3", None)
    with pytest.raises(InputError, match="loss is 'l2'; it is one of 'mse', 'l1'"):
        fit_weights_to_outputs(simulation, BATCHES, EXAMPLE, loss="l2")
    with pytest.raises(InputError, match="inputs is 'both'; it is one of 'quantized', 'original', 'each'"):
        fit_weights_to_outputs(simulation, BATCHES, EXAMPLE, inputs="both")


def test_analytic_correction_is_the_measured_one_for_a_constant_input():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4)).eval()
    x = torch.rand(1, 6).expand(10, 6).contiguous()
    simulation = quantize(model, x, weights="int2", activations=None)
    correct_bias_analytically(simulation, {"0": x[0]})
    torch.testing.assert_close(simulation(x), model(x), rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="means has 'none'"):
        correct_bias_analytically(simulation, {"none": x[0]})
