"""Where quantizers stand, topology by topology."""

from typing import Any

import pytest
import torch
from nets import trained_like
from quant_nets import Concatenated, Encoder, Mobile, Residual, sentences
from torch import Tensor, nn
from torch.nn import functional

from gracile.errors import InputError, PlanError
from gracile.graph import capture
from gracile.inputs import ExampleInputs, Inputs
from gracile.maths.quant_spec import PerBlock, PerChannel, PerTensor, QuantSpec, quant_spec
from gracile.plan import Plan
from gracile.quant import Formats, Placement, place, simulate
from gracile.quant.rewriting import rewritten
from gracile.quant_edits import Quantize
from gracile.surgery import applied_plan


def placed(model: nn.Module, inputs: ExampleInputs, **fields: Any) -> Placement:
    formats = Formats(**{"weights": "int8", "activations": "uint8"} | fields)
    return simulate(trained_like(model), Inputs.of(inputs), formats)[1]


def sites(placement: Placement, role: str) -> list[set[str]]:
    return [set(edit.sites) for edit in placement.edits if edit.role == role]


def test_a_residual_block() -> None:
    placement = placed(Residual(), torch.randn(2, 3, 8, 8))
    # Behind the first rectifier, the second convolution (it is added), the addition's rectifier, the pooling, the head.
    assert sites(placement, "activation") == [
        {"x"},
        {"relu_"},
        {"conv2d_1"},
        {"relu__1"},
        {"adaptive_avg_pool2d"},
        {"linear"},
    ]
    assert sites(placement, "weight") == [{"conv1.weight"}, {"conv2.weight"}, {"fc.weight"}]
    # Flattening and dropout keep the pooling's levels.
    assert placement.levels["flatten"] == placement.levels["dropout"] == placement.levels["adaptive_avg_pool2d"]
    assert [(bias.tensor, bias.weight) for bias in placement.biases] == [
        ("conv1.bias", "conv1_weight"), ("conv2.bias", "conv2_weight"), ("fc.bias", "fc_weight"),
    ]  # fmt: skip
    assert {edit.shape for edit in placement.edits if edit.role == "weight"} == {(6,), (4,)}


def test_a_concatenation_shares_one_scale() -> None:
    placement = placed(Concatenated(), torch.randn(2, 3, 8, 8))
    assert sites(placement, "activation") == [{"x"}, {"conv2d", "mul"}, {"conv2d_1"}, {"conv2d_2"}, {"avg_pool2d"}]
    shared = placement.levels["cat"]
    assert {placement.levels[name] for name in ("conv2d", "max_pool2d", "mul", "max_pool2d_1", "permute")} == {shared}


def test_relu6_and_depthwise_convolutions() -> None:
    placement = placed(Mobile(), torch.randn(2, 4, 8, 8))
    assert sites(placement, "activation") == [{"x"}, {"hardtanh_"}, {"hardtanh__1"}, {"conv2d_2"}, {"add"}]
    depthwise = next(edit for edit in placement.edits if edit.sites == ("body.3.weight",))
    assert depthwise.shape == (8,)


def test_attention_is_written_out_and_tied_weights_are_quantized_once() -> None:
    placement = placed(Encoder(), sentences())
    attention = "scaled_dot_product_attention"
    activations = set().union(*sites(placement, "activation"))
    assert {
        f"{attention}_scores",
        f"{attention}_softmax",
        attention,
        "gelu",
        "layer_norm",
    } <= activations
    # What a layer norm or GELU alone reads is not rounded, nor are the linear layers in front.
    assert not activations & {"add", "add_1", "add_2", "linear_3", "linear_4", "linear_5"}
    assert placement.left["add_1"] == "only a layer norm or GELU reads it, which runs on reals"
    assert "linear_3" not in placement.left
    assert placement.left[f"{attention}_masked"] == "it stands between scores and softmax"
    assert f"{attention}_scaled" in placement.left
    # The mask is made of integers: nothing of it is quantized.
    assert not activations & {"mul", "rsub", "to"}
    weights = [edit for edit in placement.edits if edit.role == "weight"]
    tied = [edit for edit in weights if edit.sites == ("words.weight",)]
    assert [edit.spec.granularity for edit in tied] == [PerTensor()]
    # The table that is added is read as activations are.
    assert [edit.spec.name for edit in weights if edit.sites == ("places",)] == ["uint8"]
    assert placement.levels["embedding"] == "words_weight"


def edit_at(placement: Placement, site: str) -> Quantize:
    [found] = [edit for edit in placement.edits if site in edit.sites]
    return found


def test_residual_sums_read_layer_norms_unrounded() -> None:
    placement = placed(Encoder(), sentences())
    # Of the first norm query, key and value read integers, the sum does not; nothing reads the last but the head.
    assert edit_at(placement, "layer_norm").past == ("add_1",)
    assert edit_at(placement, "layer_norm_1").past == ("add_2",)
    assert edit_at(placement, "layer_norm_2").past == ()


class Pooled(nn.Module):
    """A post-norm block with dropout behind its norm, whose result is the mean over what a mask leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.LayerNorm(6), nn.Linear(6, 6), nn.LayerNorm(6)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        x = self.drop(self.first(x))
        x = self.last(x + self.layer(x))
        return x, (x * mask.unsqueeze(-1).to(x.dtype)).sum(1)


def test_norms_that_nothing_reads_as_integers_are_not_rounded() -> None:
    inputs = (torch.randn(2, 3, 6), torch.ones(2, 3, dtype=torch.long))
    placement = placed(Pooled(), inputs)
    # Behind the dropout, so that the sum reads past it.
    assert sites(placement, "activation") == [{"x"}, {"dropout"}]
    assert edit_at(placement, "dropout").past == ("add",)
    assert placement.left["layer_norm_1"] == "nothing reads it as integers"
    assert placement.left["mul"] == "it reads and gives out reals"
    simulation, _ = simulate(trained_like(Pooled()), Inputs.of(inputs), Formats("int8", "uint8"))
    step = next(step for step in simulation.program.steps if step.name == "add")
    assert step.args == ({"ref": "dropout"}, {"ref": "linear"})
    assert Plan.from_json(applied_plan(simulation).to_json()) == applied_plan(simulation)


def test_the_result_of_a_model_is_not_rounded_behind_a_norm() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    placement = placed(model, torch.randn(2, 4))
    assert sites(placement, "activation") == [{"input"}]

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.layer = nn.LayerNorm(4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.norm(x)
            return x, self.layer(x)

    assert edit_at(placed(Two(), torch.randn(2, 4)), "layer_norm").past == ("output",)
    simulation, _ = simulate(Two(), Inputs.of(torch.randn(2, 4)), Formats("int8", "uint8"))
    assert simulation.program.result["tuple"][0] == {"ref": "layer_norm"}
    with pytest.raises(PlanError, match="no step 'nowhere' to read past"):
        simulation.insert(Quantize(name="q", role="activation", sites=("linear",), spec=quant_spec("uint8"),
                                   past=("nowhere",)))  # fmt: skip


class Turned(nn.Module):
    """Weights that are transposed, packed, and stacked before they are applied; and a written-out RMS norm."""

    def __init__(self) -> None:
        super().__init__()
        self.turned = nn.Parameter(torch.randn(6, 4))
        self.packed = nn.Parameter(torch.randn(12, 6))
        self.transposed = nn.ConvTranspose1d(6, 5, 3)
        self.gain = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.linear(x, self.turned.t())
        x = x @ self.turned.T
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.gain
        query, key = self.packed.chunk(2)
        x = functional.linear(x, query) + functional.linear(x, key)
        return self.transposed(x.transpose(1, 2))


def test_channels_are_found_through_views_of_weights() -> None:
    placement = placed(Turned(), torch.randn(2, 3, 6))
    shapes = {edit.sites[0]: edit.spec.granularity for edit in placement.edits if edit.role == "weight"}
    assert shapes["packed"] == PerChannel(axis=0)
    assert shapes["transposed.weight"] == PerChannel(axis=1)
    # Read along both axes.
    assert shapes["turned"] == PerTensor()
    for name in ("pow_1", "mean", "rsqrt"):
        assert name in placement.left


def test_overrides_and_what_is_left_out() -> None:
    inputs = torch.randn(2, 3, 8, 8)
    placement = placed(
        Residual(), inputs,
        overrides={"conv*": {"weights": "int4"}, "conv2": {"activations": "int16"}, "fc": None, "nothing*": None},
    )  # fmt: skip
    specs = {edit.sites[0]: edit.spec.name for edit in placement.edits}
    assert (specs["conv1.weight"], specs["conv2.weight"], specs["conv2d_1"]) == ("int4", "int4", "int16")
    assert not {"fc.weight", "linear"} & specs.keys()
    assert placement.unmatched == ("nothing*",)
    alone = placed(Residual(), inputs, include=["conv1", "relu"])
    assert sites(alone, "weight") == [{"conv1.weight"}]
    assert {"x", "relu_"} <= set().union(*sites(alone, "activation"))
    without = placed(Residual(), inputs, exclude=["fc"])
    assert without.left["linear"] == "it is excluded"
    assert sites(without, "weight") == [{"conv1.weight"}, {"conv2.weight"}]


def test_weights_or_activations_alone() -> None:
    inputs = torch.randn(2, 3, 8, 8)
    assert sites(placed(Residual(), inputs, activations=None), "activation") == []
    assert sites(placed(Residual(), inputs, weights=None), "weight") == []
    blocks = QuantSpec(bits=4, granularity=PerBlock(size=4))
    placement = placed(Residual(), inputs, activations=None, weights=blocks)
    # Blocks run along the inputs.
    assert [edit.shape for edit in placement.edits] == [(6, 1, 3, 3), (6, 2, 3, 3), (4, 2)]


def test_malformed_requests() -> None:
    with pytest.raises(InputError, match=r"overrides\['fc'\] is 'int4'"):
        Formats("int8", "uint8", {"fc": "int4"})
    with pytest.raises(InputError, match="exclude is the text"):
        Formats("int8", "uint8", exclude="fc")
    with pytest.raises(InputError, match="not per block"):
        Formats("int8", QuantSpec(bits=8, granularity=PerBlock(size=2)))


def test_operators_without_rule_are_listed() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(torch.erfinv(torch.tanh(self.fc(x))))

    graph = rewritten(capture(Odd(), torch.randn(2, 4), training=False))
    placement = place(graph, Formats("int8", "uint8"))
    assert placement.left == {"erfinv": "no rule for aten.erfinv.default"}
    # A product needs its factors as integers, wherever they come from.
    assert {"erfinv"} in sites(placement, "activation")


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.memory = nn.LSTM(8, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.memory(self.embed(x))[0][:, -1])


def test_recurrent_layers_stay_and_are_named(caplog: pytest.LogCaptureFixture) -> None:
    placement = placed(Recurrent(), torch.randn(2, 4, 5))
    assert [reason for reason in placement.left.values() if "DynamicQuantizeLSTM" in reason]
    assert sites(placement, "weight") == [{"embed.weight"}, {"head.weight"}]
    [said] = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert said.startswith("memory: stays in floating point: recurrent, weights and all")


def test_silu_is_written_out_as_two_operators() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SiLU(inplace=True), nn.Conv2d(4, 2, 1), nn.SiLU())
    placement = placed(model, torch.randn(2, 3, 4, 4))
    assert sites(placement, "activation") == [
        {"input"}, {"conv2d"}, {"silu__sigmoid"}, {"silu_"}, {"conv2d_1"}, {"silu_sigmoid"}, {"silu"},
    ]  # fmt: skip
    assert not placement.left
