import copy

import numpy as np
import pytest
import torch
from nets import SmallNet, images, trained_like
from simulated import PER_CHANNEL, simulated
from support.optional import optional
from torch import nn
from torch.nn import functional as F

import gracile
from gracile.errors import ExportError, InputError
from gracile.export import agreement, inspect_onnx, to_onnx
from gracile.export.agreement import operator_steps
from gracile.export.onnx import onnx_model, written_model
from gracile.export.runtime import outputs_of, session
from gracile.inputs import Inputs
from gracile.maths.fake_quant import quantize
from gracile.maths.quant_spec import PerBlock, PerChannel, quant_spec

onnx = optional("onnx")
optional("onnxruntime")
optional("onnxscript")


def small_net():
    torch.manual_seed(0)
    return trained_like(SmallNet(width=16))


def batches():
    return [images(8, seed=seed) for seed in range(3)]


class Words(nn.Module):
    """Embeddings, layers of three axes, attention's products."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.first, self.second = nn.Embedding(50, 32), nn.Linear(32, 64), nn.Linear(64, 32)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 7)

    def forward(self, ids):
        x = self.words(ids)
        x = self.norm(x + self.second(F.gelu(self.first(x))))
        weights = torch.softmax(torch.matmul(x, x.transpose(1, 2)) / 6, -1)
        return self.head(torch.matmul(weights, x).mean(1))


def words():
    torch.manual_seed(0)
    ids = [torch.randint(0, 50, (4, 6), generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    return Words().eval(), ids


def stored(path):
    return {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def test_a_network_runs_on_integers_and_agrees(tmp_path):
    simulation = simulated(small_net(), batches())
    before = copy.deepcopy(simulation.state_dict())
    written = to_onnx(simulation, images(8), tmp_path / "m.onnx", dynamic_batch=True)
    assert all(torch.equal(value, before[name]) for name, value in simulation.state_dict().items())
    assert written.steps <= 1
    assert "every operator within" in str(written)
    onnx.checker.check_model(onnx.load(written.path), full_check=True)
    kernels = inspect_onnx(written.path)
    assert kernels.integer == len(kernels.kernels) == 7
    assert not kernels.real
    assert "7 of 7 convolutions and matrix products run on integers" in str(kernels)
    data = images(64, seed=9)
    with torch.no_grad():
        wanted = simulation(data)
    found = outputs_of(session(written.path), Inputs.of(data))[0]
    assert (wanted.argmax(1) == found.argmax(1)).float().mean() >= 0.995
    assert to_onnx(small_net(), images(8), tmp_path / "f.onnx").bytes > 2 * written.bytes


def test_what_is_stored(tmp_path):
    simulation = simulated(small_net(), batches())
    kept = stored(to_onnx(simulation, images(), tmp_path / "m.onnx", verify=False, unsigned_weights=False).path)
    site = {sites[0]: simulation.named_quantizers()[name] for name, sites in simulation.sites.items()}
    weight = site["stem.weight"]
    integers = quantize(simulation.stem.weight, weight.scale, weight.zero_point, weight.spec)
    assert kept["stem.weight_q"].dtype == np.int8
    assert np.array_equal(kept["stem.weight_q"], integers.numpy())
    (name,) = [name for name in kept if name.startswith("stem.bias") and name.endswith("_q")]
    bias = simulation.stem.bias.detach().double()
    scale = site["x"].scale.double() * weight.scale.double()
    assert kept[name].dtype == np.int32
    assert np.array_equal(kept[name], torch.round(bias / scale).numpy())
    assert np.allclose(kept[name.removesuffix("_q") + "_scale"], scale)
    floats = sum(value.size for value in kept.values() if value.dtype == np.float32)
    assert floats < 0.1 * sum(p.numel() for p in simulation.parameters())


def test_words(tmp_path):
    model, ids = words()
    weights = lambda name: quant_spec("int8") if name == "words.weight" else PER_CHANNEL  # noqa: E731
    simulation = simulated(model, ids, weights=weights)
    written = to_onnx(simulation, ids[0], tmp_path / "m.onnx")
    assert written.steps <= 1
    kernels = inspect_onnx(written.path)
    assert kernels.integer == len(kernels.kernels) == 5, str(kernels)
    assert stored(written.path)["words.weight_rows"].dtype == np.int8
    with torch.no_grad():
        wanted = simulation(ids[1])
    assert torch.equal(outputs_of(session(written.path), Inputs.of(ids[1]))[0].argmax(1), wanted.argmax(1))


@pytest.mark.parametrize("spec", [
    quant_spec("int8", granularity=PerChannel(axis=0)),
    quant_spec("uint8", granularity=PerBlock(axis=1, size=8)),
    quant_spec("int16"),
], ids=str)  # fmt: skip
def test_embeddings_are_looked_up_as_integers(tmp_path, spec):
    model, ids = words()
    simulation = simulated(model, ids, weights=lambda name: spec if name == "words.weight" else None, activations=None)
    written = to_onnx(simulation, ids[0], tmp_path / "m.onnx", tolerance=1e-5)
    kept = stored(written.path)
    assert "words.weight" not in kept
    assert kept["words.weight_rows"].dtype == np.dtype(spec.name)


def test_weights_of_four_bits_in_blocks(tmp_path):
    model, ids = words()
    spec = quant_spec("int4", granularity=PerBlock(axis=1, size=16))
    simulation = simulated(
        model, ids, weights=lambda name: None if name == "words.weight" else spec, activations=None
    )  # fmt: skip
    written = to_onnx(simulation, ids[0], tmp_path / "m.onnx", tolerance=2e-2)
    kernels = inspect_onnx(written.path)
    assert [kernel.operator for kernel in kernels.kernels].count("MatMulNBits") == 3
    weights = 32 * 64 * 2 + 7 * 32
    # And a zero point for each block.
    assert kernels.stored["int4"] == -(-(weights + weights // 16) // 2)


@pytest.mark.parametrize(("bits", "stored_as"), [(3, "int4"), (6, "int8"), (12, "int16")])
def test_widths_without_a_type_take_the_next_wider_one(tmp_path, bits, stored_as):
    weights = quant_spec(f"int{bits}", granularity=PerChannel(axis=0))
    # 16-bit weights stay with 8-bit activations.
    activations = quant_spec(f"uint{min(bits, 8)}")
    simulation = simulated(small_net(), batches(), weights=weights, activations=activations)
    written = to_onnx(simulation, images(8), tmp_path / "m.onnx")
    assert written.steps <= 1
    assert inspect_onnx(written.path).stored[stored_as] > 1000
    values = outputs_of(session(written.path), Inputs.of(images(8)))[0]
    assert len(values.unique()) <= 2 ** min(bits, 8)


def test_every_rounding_of_weights_is_kept(tmp_path):
    # A quantizer whose weights were rounded by other means, as AdaRound does: all integers one lower.
    simulation = simulated(small_net(), batches())
    name = next(name for name, sites in simulation.sites.items() if sites == ("head.weight",))
    quantizer = simulation.quantizers[name]
    plain = quantizer.forward
    quantizer.forward = lambda values: plain(values) - quantizer.scale[:, None] * (plain(values) > 0)
    kept = stored(to_onnx(simulation, images(), tmp_path / "m.onnx", verify=False, unsigned_weights=False).path)
    lower = quantize(simulation.head.weight, quantizer.scale, quantizer.zero_point, quantizer.spec)
    assert np.array_equal(kept["head.weight_q"], (lower - (lower > 0).int()).numpy())


def test_a_wrong_integer_is_found(tmp_path, monkeypatch):
    simulation = simulated(small_net(), batches())
    written = written_model(simulation, images(8))
    rows = operator_steps(simulation, Inputs.of(images(8)), written)
    assert len(rows) == len(simulation.named_quantizers("activation"))
    assert max(row.mean for row in rows) < 0.01
    for tensor in written.proto.graph.initializer:
        if tensor.name == "block.conv2.weight_q":
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[0] = ~values[0]
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    monkeypatch.setattr(agreement, "saturates", lambda: False)
    with pytest.raises(ExportError, match=r"steps away.*verify=False"):
        operator_steps(simulation, Inputs.of(images(8)), written)
    monkeypatch.setattr(agreement, "saturates", lambda: True)
    with pytest.raises(ExportError, match="reduce_range=True"):
        operator_steps(simulation, Inputs.of(images(8)), written)


def test_weights_stored_unsigned_are_the_same_numbers(tmp_path):
    simulation = simulated(small_net(), batches())
    given = {"dynamic_batch": True, "verify": False}
    plain = to_onnx(simulation, images(), tmp_path / "plain.onnx", unsigned_weights=False, **given)
    raised = to_onnx(simulation, images(), tmp_path / "raised.onnx", unsigned_weights=True)
    assert raised.steps <= 1
    signed, unsigned = stored(plain.path), stored(raised.path)
    weights = [name for name in signed if name.endswith("weight_q")]
    assert weights
    for name in weights:
        assert (signed[name].dtype, unsigned[name].dtype) == (np.int8, np.uint8)
        zero = name.replace("_q", "_zero")
        for found in (signed, unsigned):
            found[name] = found[name].astype(int) - np.expand_dims(found[zero], (*range(1, found[name].ndim),))
        assert np.array_equal(signed[name], unsigned[name])
    assert inspect_onnx(raised.path).integer == inspect_onnx(plain.path).integer


def test_weights_that_multiply_signed_integers_stay_signed(tmp_path):
    simulation = simulated(small_net(), batches(), activations=quant_spec("int8"))
    written = to_onnx(simulation, images(), tmp_path / "m.onnx", verify=False, unsigned_weights=True)
    weights = [value for name, value in stored(written.path).items() if name.endswith("weight_q")]
    assert {value.dtype for value in weights} == {np.dtype("int8")}


def test_quantizers_that_are_off_leave_no_trace(tmp_path):
    simulation = simulated(small_net(), batches())
    for quantizer in simulation.named_quantizers().values():
        quantizer.enabled = False
    proto = onnx_model(simulation, images())
    assert not {"QuantizeLinear", "DequantizeLinear", "Mark"} & {node.op_type for node in proto.graph.node}
    assert to_onnx(simulation, images(), tmp_path / "m.onnx").error < 1e-5


def test_refusals(tmp_path):
    simulation = simulated(small_net(), batches())
    with pytest.raises(InputError, match="opset is 18"):
        to_onnx(simulation, images(), tmp_path / "m.onnx", opset=18)
    with pytest.raises(InputError, match=r"simulation\.float\(\)"):
        to_onnx(copy.deepcopy(simulation).double(), images().double(), tmp_path / "m.onnx")
    broken = copy.deepcopy(simulation)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match="holds NaN"):
        to_onnx(broken, images(), tmp_path / "m.onnx")
    next(iter(simulation.named_quantizers().values())).scale.fill_(float("nan"))
    with pytest.raises(InputError, match="has no range"):
        to_onnx(simulation, images(), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_reasons_why_a_kernel_is_not_one_of_integers(tmp_path):
    simulation = simulated(small_net(), batches())
    site = {sites[0]: simulation.named_quantizers()[name] for name, sites in simulation.sites.items()}
    site["x"].enabled = site["mean"].enabled = False
    kernels = inspect_onnx(to_onnx(simulation, images(), tmp_path / "m.onnx").path)
    assert kernels.integer == 5, str(kernels)
    reasons = {kernel.operator: (kernel.runs, kernel.reason) for kernel in kernels.real}
    assert reasons["Conv"][0] == "weights only"
    assert "x is not quantized" in reasons["Conv"][1]
    assert reasons["Gemm"][0] == "weights only"
    assert "mean is not quantized" in reasons["Gemm"][1]
    assert "why" in str(kernels)


@pytest.mark.parametrize("form", ["keywords", "nested"])
def test_inputs_keep_their_names(tmp_path, form):
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(4, 8)

        def forward(self, left, right):
            return self.a(left) + self.b(right[0] if isinstance(right, list) else right)

    torch.manual_seed(0)
    data = {"right": torch.randn(3, 4), "left": torch.randn(3, 6)}
    if form == "nested":
        data["right"] = [data["right"]]
    simulation = gracile.quantize(Two().eval(), data, calibration=[data])
    written = to_onnx(simulation, data, tmp_path / "m.onnx")
    assert written.steps <= 1
    if form == "keywords":
        assert sorted(written.inputs) == ["left", "right"]
    assert inspect_onnx(written.path).integer == 2


def test_what_gracile_quantizes_runs_on_integers_after_pruning(tmp_path):
    model, data = small_net(), images(8)
    small = gracile.apply(model, gracile.prune.plan(model, data, sparsity=0.5, round_to=1))
    simulation = gracile.quantize(small, data, calibration=batches())
    written = to_onnx(simulation, data, tmp_path / "m.onnx")
    kernels = inspect_onnx(written.path)
    assert written.steps <= 1
    assert kernels.integer == len(kernels.kernels) == 7, str(kernels)


class Gated(nn.Module):
    """SiLU in place, and a gate from the means over all positions, as EfficientNet has them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate, self.last = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 8, 1)

    def forward(self, x):
        x = F.silu(self.first(x), inplace=True)
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        return F.adaptive_avg_pool2d(self.last(x), 1).flatten(1)


def test_no_float_is_left_between_the_convolutions_of_a_gated_network(tmp_path):
    torch.manual_seed(0)
    model = Gated().eval()
    simulation = gracile.quantize(model, images(8), calibration=batches())
    written = to_onnx(simulation, images(8), tmp_path / "m.onnx", dynamic_batch=True)
    assert written.steps <= 1
    session(written.path, optimized=tmp_path / "optimized.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert kinds.count("QLinearSigmoid") == kinds.count("QLinearMul") == 2
    assert kinds.count("QLinearGlobalAveragePool") == 2
    assert not {"Sigmoid", "Mul", "ReduceMean", "GlobalAveragePool"} & set(kinds)
    assert kinds.count("QuantizeLinear") == kinds.count("DequantizeLinear") == 1


def test_means_over_other_axes_stay_means(tmp_path):
    class Means(nn.Module):
        def forward(self, x):
            return x.mean((1, 2), keepdim=True), x.mean((2, 3)), x.mean(3, keepdim=True), x.mean((-1, -2), keepdim=True)

    to_onnx(Means(), images(2), tmp_path / "m.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node]
    assert (kinds.count("ReduceMean"), kinds.count("GlobalAveragePool")) == (3, 1)


def test_linear_layers_in_front_of_norms_and_gelu_run_on_integers(tmp_path):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, activation="gelu", batch_first=True)
    model, data = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval(), torch.randn(2, 8, 32)
    simulation = gracile.quantize(model, data, calibration=[data])
    written = to_onnx(simulation, data, tmp_path / "m.onnx")
    kernels = inspect_onnx(written.path)
    assert kernels.integer == len(kernels.kernels) == 6, str(kernels)
    assert written.steps <= 1


def test_sums_in_front_of_norms_are_not_joined_with_them(tmp_path):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, activation="gelu", batch_first=True)
    model, data = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval(), torch.randn(2, 8, 32)

    def operators(content):
        session(content, optimized=tmp_path / "run.onnx")
        return {node.op_type for node in onnx.load(tmp_path / "run.onnx").graph.node}

    simulation = gracile.quantize(model, data, calibration=[data])
    assert "SkipLayerNormalization" in operators(onnx_model(model, data).SerializeToString())
    ours = operators(onnx_model(simulation, data).SerializeToString())
    assert {"Sum", "LayerNormalization"} <= ours
    assert "SkipLayerNormalization" not in ours


class BinaryNet(nn.Module):
    """A batch-norm before each sign, as BNN has it; the padding of the second convolution is zero: no level."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8)])
        self.head = nn.Linear(8 * 16, 5)

    def forward(self, x):
        x = F.max_pool2d(F.hardtanh(self.norms[0](self.first(x))), 2)
        x = F.max_pool2d(F.hardtanh(self.norms[1](self.second(x))), 2)
        return self.head(x.flatten(1))


def test_a_binary_network_is_binary_in_the_file(tmp_path):
    """Trained by BNN and finished: weights and activations are -1 and 1 in the integers, and the file agrees."""
    torch.manual_seed(0)
    model = trained_like(BinaryNet())
    data = [torch.randn(32, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    simulation = gracile.quantize(
        model, data[0], calibration=data, weights="int1", activations="int1",
        overrides={"x": {"activations": "uint8"}, "head": {"weights": "int8", "activations": "uint8"}},
    )  # fmt: skip
    run = gracile.prepare(simulation, data[0], gracile.quant.QuantizedTraining("bnn", draw_signs=True))
    optimizer = torch.optim.Adam(simulation.parameters(), 0.01)
    for step in range(6):
        optimizer.zero_grad()
        simulation.train()(data[step % 2]).square().mean().backward()
        optimizer.step()
        run.step()
    run.finalize()
    simulation.eval()
    written = to_onnx(simulation, data[0], tmp_path / "m.onnx", dynamic_batch=True)
    assert written.steps <= 1
    found = stored(written.path)
    for name in ("first", "second"):
        [integers] = [value for key, value in found.items() if key.startswith(name) and key.endswith("weight_q")]
        assert set(np.unique(integers.astype(np.int32))) == {-1, 1}
    # The integers of signs, zero among the values.
    graph = onnx.load(written.path)
    signs = [node.output[0] for node in graph.graph.node if node.op_type == "Where"]
    assert len(signs) == 2
    for name in signs:
        graph.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    values = outputs_of(session(graph.SerializeToString()), Inputs.of(data[1]))[1:]
    assert all(set(value.unique().tolist()) == {-1, 1} for value in values)
    wanted = simulation(data[1])
    found = outputs_of(session(written.path), Inputs.of(data[1]))[0]
    assert (wanted.argmax(1) == found.argmax(1)).float().mean() > 0.9
    # A sum next to zero has the other sign once its bias is an integer: some outputs differ, all others agree.
    near = (found - wanted).abs() <= 0.02 * wanted.detach().abs().max()
    assert near.float().mean() > 0.75


def test_encodings_have_no_binary_format(tmp_path):
    model = nn.Sequential(nn.Linear(4, 3))
    simulation = gracile.quantize(model, torch.randn(2, 4), weights="int1", activations=None)
    with pytest.raises(InputError, match=r"binary.*to_onnx"):
        gracile.export.to_encodings(simulation, tmp_path / "m.encodings")


class Several(nn.Module):
    """Returns keywords out of the alphabet's order, one of them an inner value."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x):
        inner = torch.relu(self.body(x))
        return {"logits": self.head(inner), "inner": inner, "more": inner + 1}


@pytest.mark.parametrize("dynamic_batch", [False, True])
def test_outputs_have_the_names_that_they_have_in_the_file_of_reals(tmp_path, dynamic_batch):
    torch.manual_seed(0)
    model, x = Several().eval(), torch.randn(6, 8)
    simulation = gracile.quantize(model, x, calibration=[x])
    reals = to_onnx(model, x, tmp_path / "reals.onnx", dynamic_batch=dynamic_batch)
    integers = to_onnx(simulation, x, tmp_path / "integers.onnx", dynamic_batch=dynamic_batch)
    assert integers.outputs == ("linear_1", "relu", "add")
    # Torch counts some values of a free batch size on.
    assert reals.outputs[:2] == integers.outputs[:2]
    assert integers.inputs == reals.inputs
    onnx.checker.check_model(onnx.load(tmp_path / "integers.onnx"), full_check=True)
    names = [value.name for value in session(tmp_path / "integers.onnx").get_outputs()]
    found = dict(
        zip(names, session(tmp_path / "integers.onnx").run(None, {integers.inputs[0]: x.numpy()}), strict=True)
    )
    for name, value in zip(integers.outputs, simulation(x).values(), strict=True):
        assert found[name].shape == tuple(value.shape)
