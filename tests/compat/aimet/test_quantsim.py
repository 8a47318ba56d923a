"""AIMET's quantization calls on small networks."""

import copy
import json
import sys
from pathlib import Path

import pytest
import torch
from support.parsed import Parsed

from gracile.compat.aimet import (
    Adaround,
    AdaroundParameters,
    AutoQuant,
    CallbackFunc,
    ModelValidator,
    QuantAnalyzer,
    QuantizationSimModel,
    QuantParams,
    QuantScheme,
    SeqMseParams,
    apply_seq_mse,
    choose_mixed_precision,
    correct_bias,
    equalize_model,
    fold_all_batch_norms,
    prepare_model,
    reestimate_bn_stats,
)
from gracile.compat.aimet.auto_quant import QuantSchemePair
from gracile.compat.aimet.batch_norm_fold import fold_given_batch_norms
from gracile.compat.aimet.bias_correction import find_all_conv_bn_with_activation
from gracile.compat.aimet.common import quantsim as versions
from gracile.compat.aimet.common.quantization import QuantizationDataType
from gracile.compat.aimet.quantsim import load_checkpoint, save_checkpoint
from gracile.errors import FileError, InputError
from gracile.html import writing

sys.path.insert(0, str(Path(__file__).parents[2]))
from quant_nets import Mobile, Residual

X = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LOADER = [(X[:4], None), (X[4:], None)]


def trained(kind=Residual, channels=3):
    torch.manual_seed(0)
    model = kind()
    for _ in range(3):
        model(torch.randn(16, channels, 8, 8))
    return model.eval()


def run(model, count):
    for images, _ in LOADER[:count]:
        model(images)


def computed(model, scheme="tf_enhanced", **options):
    sim = QuantizationSimModel(model, X, scheme, **options)
    sim.compute_encodings(run, 2)
    return sim


def error(model, other):
    with torch.no_grad():
        return float((model(X) - other(X)).norm() / other(X).norm())


class TestSimulation:
    @pytest.mark.parametrize(
        "scheme", ["tf", "tf_enhanced", "percentile", QuantScheme.training_range_learning_with_tf_init]
    )
    def test_is_near_the_model_which_stays(self, scheme):
        model = trained()
        before = copy.deepcopy(model.state_dict())
        sim = computed(model, scheme)
        assert 0 < error(sim.model, model) < 0.05
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_min_max_is_what_the_callback_ran(self):
        sim = QuantizationSimModel(trained(), X, QuantScheme.post_training_tf)
        sim.compute_encodings(lambda model: model(X[:1]))
        low, high = sim.model.named_quantizers()["x"].range
        assert float(high - low) == pytest.approx(float(X[:1].max() - X[:1].min()), rel=0.01)

    def test_ranges_are_learned_or_follow_the_weights(self):
        for scheme, learned in (("tf", False), ("tf_range_learning_with_tf_init", True)):
            sim = computed(trained(), scheme)
            names = [name for name, _ in sim.model.named_parameters() if name.startswith("quantizers.")]
            assert bool(names) == learned
            optimizer = torch.optim.SGD(sim.model.parameters(), 0.1)
            sim.model.train()
            sim.model(X).square().mean().backward()
            optimizer.step()
            sim.model.eval()
            sim.model(X)
            if not learned:
                weight = sim.model.get_parameter("conv1.weight").detach().abs().flatten(1).amax(1)
                assert torch.allclose(sim.model.named_quantizers()["conv1_weight"].scale * 127, weight)

    def test_exclusion(self):
        model = trained()
        sim = QuantizationSimModel(model, X)
        sim.exclude_layers_from_quantization([model.conv2])
        assert "conv2_weight" not in sim.model.named_quantizers()
        sim.exclude_param_from_quantization("weight")
        sim.compute_encodings(run, 1)
        assert not any(item.enabled for item in sim.model.named_quantizers("weight").values())
        with pytest.raises(InputError, match="before compute_encodings"):
            sim.exclude_layers_from_quantization([model.fc])

    def test_parameters_stay_excluded_when_layers_are(self):
        model = trained()
        sim = QuantizationSimModel(model, X)
        sim.exclude_param_from_quantization("weight")
        sim.exclude_layers_from_quantization([model.conv2])
        assert not any(item.enabled for item in sim.model.named_quantizers("weight").values())

    def test_what_a_configuration_file_says_of_types_of_modules(self, tmp_path, caplog):
        file = tmp_path / "config.json"
        content = {
            "defaults": {"params": {"is_symmetric": "True"}, "per_channel_quantization": "False"},
            "params": {"bias": {"is_quantized": "True"}},
            "op_type": {
                "Conv": {"per_channel_quantization": "True"},
                "Gemm": {"params": {"weight": {"is_symmetric": "False"}}},
                "Fold": {"is_output_quantized": "False"},
            },
            "model_input": {"is_input_quantized": "False"},
        }
        file.write_text(json.dumps(content))
        quantizers = QuantizationSimModel(trained(), X, config_file=file).model.named_quantizers("weight")
        assert str(quantizers["conv1_weight"].spec) == "int8 symmetric per channel (axis 0)"
        assert str(quantizers["fc_weight"].spec) == "uint8 affine per tensor"
        said = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert len(said) == 3
        for words in ("op_type.Fold", "model_input.is_input_quantized", "params.bias.is_quantized"):
            assert any(words in line for line in said)
        content["defaults"]["params"]["is_quantized"] = "False"
        file.write_text(json.dumps(content))
        with pytest.raises(InputError, match="all parameters in floating point"):
            QuantizationSimModel(trained(), X, config_file=file)

    def test_configuration_file(self, tmp_path):
        file = tmp_path / "config.json"
        content = {
            "defaults": {"ops": {"is_output_quantized": "True"}, "params": {"is_symmetric": "False"},
                         "per_channel_quantization": "False"},
            "op_type": {"Gemm": {"params": {"weight": {"is_quantized": "False"}}}},
        }  # fmt: skip
        file.write_text(json.dumps(content))
        quantizers = QuantizationSimModel(trained(), X, config_file=file).model.named_quantizers("weight")
        assert set(quantizers) == {"conv1_weight", "conv2_weight"}
        assert str(quantizers["conv1_weight"].spec) == "uint8 affine per tensor"
        file.write_text("[]")
        with pytest.raises(FileError, match="no configuration"):
            QuantizationSimModel(trained(), X, config_file=file)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"quant_scheme": "best"}, "QuantScheme"),
            ({"rounding_mode": "stochastic"}, "nearest"),
            ({"default_param_bw": 32}, "2 to 16"),
            ({"default_data_type": QuantizationDataType.float}, "integers"),
        ],
    )
    def test_wrong_arguments(self, options, words):
        with pytest.raises(InputError, match=words):
            QuantizationSimModel(trained(), X, **options)


class TestFiles:
    def test_export_and_back(self, tmp_path):
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
        model = trained()
        sim = computed(model)
        sim.export(tmp_path, "m", X, onnx_export_args={"opset_version": 13})
        assert {path.name for path in tmp_path.iterdir()} == {"m.onnx", "m.pth", "m.encodings", "m_torch.encodings"}
        other = QuantizationSimModel(model, X)
        other.model.load_state_dict(torch.load(tmp_path / "m.pth", weights_only=True), strict=False)
        other.load_encodings(tmp_path / "m_torch.encodings")
        assert torch.equal(other.model(X), sim.model(X))
        with pytest.raises(InputError, match="TorchScript"):
            sim.export(tmp_path, "m", X, export_to_torchscript=True)

    @pytest.mark.parametrize("version", ["0.6.1", "1.0.0"])
    def test_encodings(self, tmp_path, monkeypatch, version):
        monkeypatch.setattr(versions, "encoding_version", version)
        sim = computed(trained())
        content = json.loads(sim.save_encodings_to_json(tmp_path, "m").read_text())
        assert content["version"] == version
        other = QuantizationSimModel(trained(), X)
        other.load_encodings(content)
        assert torch.equal(other.model(X), sim.model(X))
        sections = content["param_encodings"]
        if version == "0.6.1":
            del sections["fc.weight"]
        else:
            sections[:] = [entry for entry in sections if entry["name"] != "fc.weight"]
        other.load_encodings(content, partial=False)
        assert not other.model.named_quantizers()["fc_weight"].enabled

    def test_checkpoint(self, tmp_path):
        sim = computed(trained(), QuantScheme.training_range_learning_with_tf_init)
        save_checkpoint(sim, tmp_path / "c")
        loaded = load_checkpoint(tmp_path / "c", Residual().eval(), X)
        with torch.no_grad():
            assert torch.allclose(loaded.model.eval()(X), sim.model.eval()(X), atol=1e-6)
        with pytest.raises(InputError, match="fresh instance"):
            load_checkpoint(tmp_path / "c")


class TestPasses:
    def test_folding(self):
        model = trained()
        folded = copy.deepcopy(model)
        pairs = fold_all_batch_norms(folded, (1, 3, 8, 8))
        assert [layer for layer, _ in pairs] == [folded.conv1, folded.conv2]
        assert error(folded, model) < 1e-6
        one = copy.deepcopy(model)
        fold_given_batch_norms(one, [(one.conv1, one.bn1)])
        assert isinstance(one.bn1, torch.nn.Identity)
        assert isinstance(one.bn2, torch.nn.BatchNorm2d)
        assert error(one, model) < 1e-6

    def test_equalization_in_place(self):
        model = trained(Mobile, 4)
        equal, images = copy.deepcopy(model), torch.randn(2, 4, 8, 8)
        equalize_model(equal, (1, 4, 8, 8))
        with torch.no_grad():
            assert torch.allclose(equal(images), model(images), atol=1e-5)
        first, second = equal.body[0].weight, equal.body[3].weight
        ranges = first.detach().flatten(1).abs().amax(1), second.detach().flatten(1).abs().amax(1)
        assert torch.allclose(*ranges, rtol=0.1)

    @pytest.mark.parametrize("folded", [False, True])
    def test_bias_correction_takes_mean_errors_off(self, folded):
        model = trained()
        corrected = copy.deepcopy(model)
        if folded:
            fold_all_batch_norms(corrected, (1, 3, 8, 8))
        plain = computed(copy.deepcopy(corrected), default_param_bw=3)
        kept = corrected.conv1.bias.clone() if folded else corrected.bn1.bias.clone()
        correct_bias(corrected, QuantParams(weight_bw=3), 8, LOADER, 8, layers_to_ignore=[corrected.conv1])
        assert torch.equal(corrected.conv1.bias if folded else corrected.bn1.bias, kept)
        after = computed(corrected, default_param_bw=3)
        with torch.no_grad():
            means = [float((sim.model(X) - model(X)).mean(0).norm()) for sim in (plain, after)]
        assert means[1] < 0.3 * means[0]

    def test_analytic_bias_correction(self):
        model = trained()
        known = find_all_conv_bn_with_activation(model, (1, 3, 8, 8))
        assert list(known) == [model.conv2]
        before = model.bn2.bias.clone()
        others = [model.conv1, model.fc]
        correct_bias(model, QuantParams(weight_bw=3), 8, LOADER, 8, known, False, others)
        assert not torch.equal(model.bn2.bias, before)

    def test_adaround_levels_stay(self, tmp_path):
        model = trained()
        params = AdaroundParameters(LOADER, 2, 50, forward_fn=lambda model, batch: model(batch[0]))
        rounded = Adaround.apply_adaround(model, X, params, tmp_path, "ada", default_param_bw=3)
        sim = QuantizationSimModel(rounded, X, default_param_bw=3)
        sim.set_and_freeze_param_encodings(tmp_path / "ada.encodings")
        sim.compute_encodings(run, 2)
        with sim.model.only(activations=False):
            assert torch.allclose(sim.model(X), rounded(X), atol=1e-6)
        nearest = computed(model, default_param_bw=3)
        with nearest.model.only(activations=False):
            assert error(rounded, model) < error(nearest.model, model)

    def test_seq_mse_freezes_ranges(self):
        model = trained()
        sim = QuantizationSimModel(model, X, default_param_bw=4)
        apply_seq_mse(model, sim, LOADER, SeqMseParams(2, 5), modules_to_exclude=[model.fc])
        found = sim.model.named_quantizers()["conv1_weight"].scale.clone()
        sim.compute_encodings(run, 2)
        assert torch.equal(sim.model.named_quantizers()["conv1_weight"].scale, found)
        assert sim.settings()["frozen"] == ["conv1_weight", "conv2_weight"]

    def test_seq_mse_takes_all_losses_and_inputs(self):
        scales = {}
        for loss, inputs in (("mse", "symqt"), ("sqnr", "symqt"), ("l1", "symqt"), ("mse", "symfp"), ("mse", "asym")):
            model = trained()
            sim = QuantizationSimModel(model, X, default_param_bw=3, default_output_bw=4)
            apply_seq_mse(model, sim, LOADER, SeqMseParams(2, 40, inputs, loss))
            scales[loss, inputs] = torch.cat([q.scale.flatten() for q in sim.model.named_quantizers("weight").values()])
        assert torch.equal(scales["mse", "symqt"], scales["sqnr", "symqt"])
        assert not torch.equal(scales["mse", "symqt"], scales["l1", "symqt"])
        with pytest.raises(InputError, match="loss_fn is 'huber'; it is one of 'mse', 'sqnr', 'l1'"):
            SeqMseParams(2, loss_fn="huber")
        with pytest.raises(InputError, match="inp_symmetry is 'sym'; it is one of 'symqt', 'symfp', 'asym'"):
            SeqMseParams(2, inp_symmetry="sym")

    def test_reestimation_by_hand_and_back(self):
        model = trained()
        before = model.bn1.running_mean.clone()
        handle = reestimate_bn_stats(model, LOADER, 2)
        with torch.no_grad():
            assert torch.allclose(model.bn1.running_mean, model.conv1(X).mean((0, 2, 3)), atol=1e-6)
        handle.remove()
        assert torch.equal(model.bn1.running_mean, before)
        assert not model.bn1.training
        with pytest.raises(InputError, match="folded"):
            reestimate_bn_stats(QuantizationSimModel(model, X).model, LOADER)


class TestChoosing:
    def score(self, model, _arguments=None):
        return -error(model, self.model)

    def test_analyzer(self, tmp_path):
        pytest.importorskip("plotly", reason="pip install 'gracile[report]'")
        self.model = trained()
        analyzer = QuantAnalyzer(self.model, X, CallbackFunc(run, 2), CallbackFunc(self.score, None))
        analyzer.enable_per_layer_mse_loss(LOADER, 2)
        found = analyzer.analyze(default_param_bw=3, results_dir=tmp_path)
        assert found.weights_only < found.activations_only < found.floating
        enabled = json.loads((tmp_path / "per_layer_quant_enabled.json").read_text())
        assert enabled == dict(found.alone_on)
        assert "conv1" in json.loads((tmp_path / "per_layer_mse_loss.json").read_text())
        pages = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.html")}
        assert pages == {
            "per_layer_quant_enabled.html", "per_layer_quant_disabled.html", "per_layer_mse_loss.html",
            "min_max_ranges/weights.html", "min_max_ranges/activations.html",
            "weights_pdf.html", "activations_pdf.html",
        }  # fmt: skip
        drawn = [text for kind, text in Parsed((tmp_path / "per_layer_quant_enabled.html").read_text()).scripts
                 if kind == "application/json"]  # fmt: skip
        assert json.loads(drawn[0])["data"][0]["x"] == list(enabled.values())
        with pytest.raises(InputError, match="CallbackFunc"):
            QuantAnalyzer(self.model, X, run, CallbackFunc(self.score))

    def test_analyzer_without_plotly_writes_its_figures(self, tmp_path, monkeypatch, caplog):
        self.model = trained()
        monkeypatch.setitem(sys.modules, "plotly.offline", None)
        writing._plotly.cache_clear()
        QuantAnalyzer(self.model, X, CallbackFunc(run, 2), CallbackFunc(self.score)).analyze(results_dir=tmp_path)
        writing._plotly.cache_clear()
        assert (tmp_path / "min_max_ranges/weights.json").is_file()
        assert not list(tmp_path.rglob("*.html"))
        assert "gracile[report]" in caplog.text

    def test_auto_quant(self, tmp_path):
        self.model = trained()
        with pytest.raises(InputError, match="nearest"):
            AutoQuant(self.model, X, LOADER, self.score, rounding_mode="stochastic")
        auto = AutoQuant(self.model, X, LOADER, self.score, results_dir=tmp_path)
        sim, score = auto.run_inference()
        assert score == pytest.approx(-error(sim.model, self.model))
        model, best, path = auto.optimize(0.05)
        assert best >= -0.05
        assert best == pytest.approx(-error(model, self.model))
        assert Path(path).is_file()
        assert auto.result.reached

    def test_auto_quant_starts_with_the_best_of_the_schemes(self, tmp_path):
        self.model = trained()
        auto = AutoQuant(self.model, X, LOADER, self.score, param_bw=4, results_dir=tmp_path)
        # Half of the values are clipped by the first.
        poor = QuantSchemePair("percentile", "percentile", 50.0, 50.0)
        auto.set_quant_scheme_candidates([poor])
        worst = auto.optimize(1e3)[1]
        auto.set_quant_scheme_candidates([poor, ("tf_enhanced", "tf_enhanced")])
        assert auto.get_quant_scheme_candidates()[0] == poor
        auto.set_export_params({"opset_version": 21}, propagate_encodings=True)
        auto.set_model_preparer_params([], None)
        assert auto.optimize(1e3)[1] > worst
        for wrong, message in (([], "candidates is"), (["tf"], "quant_scheme"), ([("tf",)], "give QuantSchemePair")):
            with pytest.raises(InputError, match=message):
                auto.set_quant_scheme_candidates(wrong)

    def test_mixed_precision(self, tmp_path):
        self.model = trained()
        sim = QuantizationSimModel(self.model, X)
        integers = QuantizationDataType.int
        candidates = [((8, integers), (8, integers)), ((8, integers), (3, integers))]
        score = CallbackFunc(self.score)
        tried = choose_mixed_precision(sim, X, candidates, score, score, 0.1, tmp_path, True, CallbackFunc(run, 2))
        assert self.score(sim.model) >= -0.1
        bits = {name: item.spec.bits for name, item in sim.model.named_quantizers("weight").items()}
        assert 3 in bits.values()
        assert tried[0].relative_bit_ops < 1
        with pytest.raises(InputError, match="two different pairs"):
            choose_mixed_precision(sim, X, candidates[:1], score, score, 0.1, tmp_path, True, CallbackFunc(run, 2))

    def test_widths_of_activations_are_chosen_too(self, tmp_path):
        self.model = trained()
        sim = QuantizationSimModel(self.model, X)
        integers = QuantizationDataType.int
        candidates = [((a, integers), (w, integers)) for a, w in ((16, 8), (8, 8), (8, 3), (2, 8))]
        calls = []
        layers = CallbackFunc(lambda model, _: calls.append(1) or self.score(model))
        score, forward = CallbackFunc(self.score), CallbackFunc(run, 2)
        tried = choose_mixed_precision(sim, X, candidates, layers, score, 0.1, tmp_path, True, forward)
        # The network as it is, and each of its three layers in two widths, once for all budgets.
        assert len(calls) == 1 + 3 * 2
        assert {choice.activations for choice in tried} == {16, 8, 2}
        assert max(choice.relative_bit_ops for choice in tried) == pytest.approx(1)
        kept = {item.spec.bits for item in sim.model.named_quantizers("activation").values()}
        assert kept == {8}
        assert self.score(sim.model) >= -0.1


def test_nothing_to_prepare():
    model = trained()
    prepared = prepare_model(model)
    assert prepared is not model
    assert torch.equal(prepared(X), model(X))
    assert ModelValidator.validate_model(model, X)

    class Data(torch.nn.Module):
        def forward(self, x):
            return x + 1 if x.sum() > 0 else x

    assert not ModelValidator.validate_model(Data(), X)
