"""NNI's quantizers: config lists become formats, training reaches the simulation, scales go out and come back."""

import pytest
import torch
from nni_toys import IMAGES, accuracy, by_criterion, by_step, network, step
from torch.nn import functional as F

from gracile.compat.nni import ModelSpeedupTensorRT, v2, v3
from gracile.compat.nni.algorithms.compression.pytorch import quantization as oldest
from gracile.compat.nni.common.quant_rules import quant_rules
from gracile.compat.nni.compression import quantization as newest
from gracile.compat.nni.compression.pytorch import quantization as older
from gracile.errors import InputError
from gracile.maths.quant_spec import PerBlock, PerChannel, QuantSpec
from gracile.simulation import Simulation

NEW = [
    {"op_types": ["Conv2d", "Linear"], "target_names": ["_input_", "weight", "_output_"], "quant_dtype": "int8"},
    {"op_types": ["ReLU"], "target_names": ["_output_"], "quant_dtype": "uint8", "quant_scheme": "affine"},
]
OLD = [
    {"quant_types": ["weight", "input"], "quant_bits": {"weight": 8, "input": 8}, "op_types": ["Conv2d", "Linear"]},
    {"quant_types": ["output"], "quant_bits": 8, "op_types": ["ReLU"]},
]


def evaluator(model, evaluating=accuracy):
    optimizer = torch.optim.SGD(model.parameters(), 0.005)
    return v3.TorchEvaluator(by_step, optimizer, step, evaluating_func=evaluating)


class TestRules:
    def of(self, entry):
        return quant_rules(network(), [{"op_names": ["conv2"], **entry}]).modules["conv2"]

    def test_nni_3(self):
        found = self.of(
            {
                "target_names": ["_input_", "weight", "bias"],
                "quant_dtype": "int8",
                "target_settings": {"weight": {"quant_dtype": "int4", "granularity": "out_channel"}},
            }
        )
        assert found == {
            "input": QuantSpec(bits=8, symmetric=False, narrow=True),
            "weight": QuantSpec(bits=4, granularity=PerChannel(), narrow=True),
        }
        assert self.of({"target_names": ["weight"], "granularity": [1, 4]})["weight"].granularity == PerBlock(size=4)

    def test_nni_2(self):
        found = self.of(
            {
                "quant_types": ["weight", "output"],
                "quant_bits": {"weight": 3, "output": 7},
                "quant_dtype": {"weight": "int"},
                "quant_scheme": {"weight": "per_channel_symmetric"},
            }
        )
        assert found == {
            "weight": QuantSpec(bits=3, granularity=PerChannel(), narrow=True),
            "output": QuantSpec(bits=7, signed=False, symmetric=False),
        }

    def test_later_entries_win_and_exclude_takes_out(self):
        entries = [*NEW, {"op_names": ["fc"], "target_names": ["weight"], "quant_dtype": "int2"},
                   {"op_names": ["conv1"], "exclude": True}]  # fmt: skip
        found = quant_rules(network(), entries).modules
        assert found["fc"]["weight"].bits == 2
        assert found["fc"]["output"].bits == 8
        assert "conv1" not in found

    @pytest.mark.parametrize(
        ("entry", "words"),
        [
            ({"quant_dtyp": "int8"}, "did you mean 'quant_dtype'"),
            ({"quant_dtype": "float8"}, r"config_list\[0\].*no integer format"),
            ({"target_names": ["weigth"]}, "did you mean 'weight'"),
            ({"quant_types": ["weight"], "quant_bits": 32}, "1 to 16 bits"),
            ({"granularity": "in_channel"}, "out_channel"),
            ({"target_names": ["_input_1"]}, "_input_0"),
            ({"apply_method": "clamp_rond"}, "did you mean 'clamp_round'"),
            ({"quant_types": ["weight"], "quant_bits": {"weigth": 4}}, "quant_bits has 'weigth'"),
            ({"quant_types": ["weight"], "quant_scheme": {"bias": "per_tensor_affine"}}, "quant_scheme has 'bias'"),
        ],
    )
    def test_errors_name_the_entry(self, entry, words):
        with pytest.raises(InputError, match=words):
            self.of(entry)


class TestVersion3:
    def test_ptq_has_the_formats_and_ranges_of_the_evaluation(self):
        model = network().eval()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        quantized, config = v3.PtqQuantizer(model, NEW, evaluator(model)).compress(5, None)
        assert isinstance(quantized, Simulation)
        assert set(config) == {"conv1", "conv2", "fc", "relu1", "relu2"}
        first = config["conv1"]["_input_0"]
        assert first["tracked_max"] == pytest.approx(float(IMAGES.max()), rel=0.02)
        assert (first["quant_dtype"], first["quant_scheme"], first["quant_bits"]) == ("int8", "affine", 8)
        weight = config["conv2"]["weight"]
        assert float(weight["scale"]) == pytest.approx(float(model.conv2.weight.detach().abs().max()) / 127)
        assert (quantized(IMAGES) - model(IMAGES)).norm() < 0.05 * model(IMAGES).norm()
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_bias_correction_takes_the_mean_error_off(self):
        coarse = [{**NEW[0], "target_names": ["weight"], "quant_dtype": "int3"}]
        errors = []
        for correction in (False, True):
            torch.manual_seed(0)
            model = network().eval()
            quantizer = v3.PtqQuantizer(model, coarse, evaluator(model), is_bias_correction=correction)
            quantized, _ = quantizer.compress()
            with torch.no_grad():
                errors.append(float((quantized(IMAGES) - model(IMAGES)).mean(0).norm()))
        assert errors[1] < 0.05 * errors[0]

    @pytest.mark.parametrize(
        "kind", ["QATQuantizer", "DoReFaQuantizer", "BNNQuantizer", "LsqQuantizer", "LsqPlusQuantizer"]
    )
    def test_training(self, kind, tmp_path):
        torch.manual_seed(0)
        model = network()
        start = model.conv2.weight.detach().clone()
        quantizer = getattr(v3, kind)(model, NEW, evaluator(model, None))
        quantized, config = quantizer.compress(3, None)
        assert torch.equal(model.conv2.weight, start)
        assert not torch.equal(quantized.get_parameter("conv2.weight"), start)
        expected = {"DoReFaQuantizer": "int9", "BNNQuantizer": "int1"}.get(kind, "int8")
        assert config["conv2"]["weight"]["quant_dtype"] == expected
        outputs = quantized(IMAGES)
        saved = quantizer.export_model(tmp_path / "m.pt", tmp_path / "c.pt")
        with torch.no_grad():
            for item in quantized.named_quantizers().values():
                item.scale.mul_(3)
        assert not torch.equal(quantized(IMAGES), outputs)
        quantizer.update_calibration_config(torch.load(tmp_path / "c.pt", weights_only=True))
        assert torch.equal(quantized(IMAGES), outputs)
        assert saved.keys() == config.keys()
        assert "conv2.weight" in torch.load(tmp_path / "m.pt", weights_only=True)

    def test_learned_scales_are_trained_by_the_evaluators_optimizer(self):
        torch.manual_seed(0)
        scales = []
        for steps in (1, 4):
            torch.manual_seed(0)
            model = network()
            _, config = v3.LsqQuantizer(model, NEW, evaluator(model)).compress(steps, None)
            scales.append(float(config["conv2"]["weight"]["scale"]))
        assert scales[0] != scales[1]

    def test_before_compress(self):
        model = network()
        with pytest.raises(InputError, match="compress"):
            v3.QATQuantizer(model, NEW, evaluator(model)).get_calibration_config()
        with pytest.raises(InputError, match="TorchEvaluator"):
            v3.QATQuantizer(model, NEW, None)


class TestVersion2:
    @pytest.mark.parametrize("kind", ["QAT_Quantizer", "DoReFaQuantizer", "BNNQuantizer", "LsqQuantizer"])
    def test_training_in_the_users_loop(self, kind):
        torch.manual_seed(0)
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.005)
        quantizer = getattr(v2, kind)(model, OLD, optimizer, IMAGES)
        quantized = quantizer.compress()
        before = [parameter.detach().clone() for parameter in quantized.parameters()]
        by_criterion(quantized, optimizer, F.cross_entropy, max_steps=2)
        assert not all(map(torch.equal, quantized.parameters(), before))
        assert quantizer.get_calibration_config()["conv2"].keys() == {"weight", "_input_0"}

    def test_training_the_wrong_model_is_an_error(self):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.005)
        v2.QAT_Quantizer(model, OLD, optimizer, IMAGES).compress()
        with pytest.raises(InputError, match="train what compress"):
            by_criterion(model, optimizer, F.cross_entropy, max_steps=1)

    def test_naive_is_the_largest_weight_over_127(self):
        model = network().eval()
        quantized = v2.NaiveQuantizer(model, OLD, dummy_input=IMAGES).compress()
        [item] = [item for name, item in quantized.named_quantizers().items() if "conv2" in name]
        assert float(item.scale) == pytest.approx(float(model.conv2.weight.detach().abs().max()) / 127)
        assert not quantized.named_quantizers("activation")

    def test_observer_takes_what_the_model_has_read(self):
        model = network().eval()
        quantizer = v2.ObserverQuantizer(model, OLD)
        with pytest.raises(InputError, match="read nothing"):
            v2.ObserverQuantizer(model, OLD).compress()
        for part in IMAGES.split(16):
            model(part)
        quantized = quantizer.compress()
        assert (quantized(IMAGES) - model(IMAGES)).norm() < 0.05 * model(IMAGES).norm()
        with pytest.raises(InputError, match="eval"):
            v2.ObserverQuantizer(network(), OLD)


class TestSpeedup:
    @pytest.fixture(autouse=True)
    def _needs(self):
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")

    def test_a_config_makes_the_same_file_as_the_simulation(self, tmp_path):
        model = network().eval()
        quantized, config = v3.PtqQuantizer(model, NEW, evaluator(model)).compress()
        found = []
        for number, (given, ranges) in enumerate([(quantized, None), (model, config)]):
            engine = ModelSpeedupTensorRT(given, (32, 1, 8, 8), config=ranges, onnx_path=tmp_path / f"{number}.onnx")
            engine.compress()
            output, seconds = engine.inference(IMAGES)
            assert seconds > 0
            found.append(output)
        assert torch.equal(found[0], found[1])
        assert (found[0] - quantized(IMAGES)).abs().max() < 0.05
        engine.export_quantized_model(tmp_path / "copy.onnx")
        engine.load_quantized_model(tmp_path / "copy.onnx")
        assert torch.equal(engine.inference(IMAGES)[0], found[1])

    def test_calibration_data(self, tmp_path):
        model = network().eval()
        engine = ModelSpeedupTensorRT(model, (32, 1, 8, 8), onnx_path=tmp_path / "m.onnx")
        with pytest.raises(InputError, match="no ranges"):
            engine.compress()
        engine.compress_with_calibrator([IMAGES])
        assert (engine.inference(IMAGES)[0] - model(IMAGES)).norm() < 0.1 * model(IMAGES).norm()


def test_what_has_no_effect_on_the_file_is_said(caplog):
    model = network()
    ModelSpeedupTensorRT(model, tuple(IMAGES.shape), extra_layer_bits=16, output_names=["y"])
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert [line.split()[0] for line in said] == ["extra_layer_bits", "output_names"]
    caplog.clear()
    ModelSpeedupTensorRT(model, tuple(IMAGES.shape))
    assert not caplog.records


def test_module_paths():
    assert newest.QATQuantizer is v3.QATQuantizer
    assert older.QAT_Quantizer is oldest.QAT_Quantizer is v2.QAT_Quantizer
    assert issubclass(newest.LsqPlusQuantizer, v3.QATQuantizer.__mro__[1])
