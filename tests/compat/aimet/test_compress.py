"""One call of `ModelCompressor`: what it returns, what it calls, and that it agrees with `gracile.compress`."""

import copy
import json
from decimal import Decimal
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import gracile
from gracile.compat.aimet import (
    CompressionScheme,
    CompressionStats,
    CostMetric,
    GreedyCompressionRatioSelectionStats,
    GreedySelectionParameters,
    ModelCompressor,
    ModuleCompRatioPair,
    RankSelectScheme,
    SpatialSvdParameters,
    TarCompressionRatioSelectionStats,
    TarRankSelectionParameters,
    WeightSvdParameters,
)
from gracile.compat.aimet.evaluations import FILE, Ratios
from gracile.errors import CaptureError, EvaluationError, FileError, InputError, TargetError

DATA = torch.randn(32, 3, 6, 6, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16)
        self.fc = nn.Linear(16, 10)

    def forward(self, x):
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        return self.fc(torch.relu(self.depthwise(x)).flatten(1))


class Callback:
    """Agreement with the original, in (0, 1]; counts its calls by iterations."""

    def __init__(self, model, data=DATA):
        self.data = data
        with torch.no_grad():
            self.wanted = model(data)
        self.iterations = []

    def __call__(self, model, iterations, on_gpu):
        assert on_gpu is False
        self.iterations.append(iterations)
        return float(1 / (1 + (model(self.data) - self.wanted).square().mean()))


pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def model():
    return Net()


def spatial(params=None, *, ignore=None, multiplicity=1, **greedy):
    options = {"target_comp_ratio": Decimal("0.6"), "num_comp_ratio_candidates": 4, **greedy}
    params = params or SpatialSvdParameters.AutoModeParams(GreedySelectionParameters(**options), ignore)
    auto = isinstance(params, SpatialSvdParameters.AutoModeParams)
    mode = SpatialSvdParameters.Mode.auto if auto else SpatialSvdParameters.Mode.manual
    return SpatialSvdParameters(mode, params, multiplicity)


def by_hand(*pairs, **options):
    pairs = [ModuleCompRatioPair(*pair) for pair in pairs]
    return spatial(SpatialSvdParameters.ManualModeParams(pairs), **options)


def weight(select, scheme=RankSelectScheme.greedy, ignore=None, multiplicity=1):
    params = WeightSvdParameters.AutoModeParams(scheme, select, ignore)
    return WeightSvdParameters(WeightSvdParameters.Mode.auto, params, multiplicity)


def run(model, parameters, callback=None, *, metric=CostMetric.mac, shape=(2, 3, 6, 6), iterations=5, **options):
    scheme = {
        SpatialSvdParameters: CompressionScheme.spatial_svd,
        WeightSvdParameters: CompressionScheme.weight_svd,
    }[type(parameters)]
    callback = callback or Callback(model)
    return ModelCompressor.compress_model(model, callback, iterations, shape, scheme, metric, parameters, **options)


def test_auto_mode_is_gracile_greedy(model, folder):
    callback = Callback(model)
    state = copy.deepcopy(model.state_dict())
    small, _ = run(model, spatial(ignore=[model.conv1]), callback)
    own = gracile.compress(
        model, torch.rand(2, 3, 6, 6), evaluate=lambda m: callback(m, None, False), target=gracile.Target(macs=0.6),
        search=gracile.Search(kind="greedy", candidates=4), exclude=["conv1"],
    )  # fmt: skip
    assert gracile.applied_plan(small) == own.plan
    torch.testing.assert_close(small(DATA), own.model(DATA), rtol=0, atol=0)
    assert model.training
    assert small.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert type(small) is Net


def test_every_field(model, folder):
    callback = Callback(model)
    small, stats = run(model, spatial(ignore=[model.conv1]), callback)
    before, after = (gracile.profile(m, DATA[:2]) for m in (model, small))
    assert isinstance(stats, CompressionStats)
    assert stats.baseline_model_accuracy == "1.000000"
    with torch.no_grad():
        assert stats.compressed_model_accuracy == f"{callback(small.eval(), None, False):.6f}"
    assert stats.mac_compression_ratio == f"{after.macs / before.macs:.6f}"
    assert stats.memory_compression_ratio == f"{after.params / before.params:.6f}"
    assert 0.5 < float(stats.mac_compression_ratio) <= 0.6
    assert stats.per_layer_stats == [
        CompressionStats.LayerStats("conv2", (layer_macs(after, "conv2.")) / layer_macs(before, "conv2"))
    ]
    selection = stats.compression_ratio_selection_stats
    assert isinstance(selection, GreedyCompressionRatioSelectionStats)
    assert list(selection.eval_scores_dictionary) == ["conv2"]
    column = selection.eval_scores_dictionary["conv2"]
    assert all(isinstance(ratio, Decimal) and 0 < ratio <= Decimal("0.75") for ratio in column)
    assert list(column.values()) == [entry.score for entry in stats.report.dictionary]
    assert selection.eval_scores_file == folder / "greedy_selection_eval_scores_dict.json"
    assert isinstance(stats.report, gracile.Report)
    for text in ("baseline accuracy", stats.mac_compression_ratio, "conv2", "score"):
        assert text in str(stats)


def layer_macs(cost, prefix):
    return sum(layer.macs for layer in cost.layers if layer.name.startswith(prefix))


def test_the_callback_gets_the_iterations_for_candidates_and_none_for_the_final_scores(model):
    callback = Callback(model)
    run(model, spatial(), callback)
    candidates = callback.iterations[1:-1]
    assert callback.iterations[0] is callback.iterations[-1] is None
    assert set(candidates) == {5}
    # The original once, and each layer at no more than the three candidates.
    assert 3 < len(candidates) <= 1 + 2 * 3


def test_candidates_may_be_scored_by_the_full_evaluation(model):
    callback = Callback(model)
    run(model, spatial(), callback, iterations=None)
    assert set(callback.iterations) == {None}


def test_untouched_layers_have_no_ratio(model, folder):
    small, stats = run(model, by_hand((model.conv1, None), (model.conv2, Decimal("0.5"))))
    assert stats.compression_ratio_selection_stats is None
    assert [(layer.name, layer.compression_ratio is None) for layer in stats.per_layer_stats] == [
        ("conv1", True),
        ("conv2", False),
    ]
    assert isinstance(small.conv1, nn.Conv2d)
    assert not folder.exists()


def test_ratios_are_those_that_were_achieved(model):
    """Asked for 1 % a layer has rank one at the least, and the statistics say what that comes to."""
    _, stats = run(model, by_hand((model.conv2, 0.01)))
    [layer] = [layer for layer in stats.report.layers if layer.name == "conv2"]
    assert layer.size == 1
    assert stats.per_layer_stats[0].compression_ratio == layer.after.macs / layer.before.macs > 0.01


@pytest.mark.parametrize(("metric", "name"), [(CostMetric.mac, "macs"), (CostMetric.memory, "params")])
def test_cost_metrics_in_both_modes(model, metric, name):
    small, _ = run(model, spatial(target_comp_ratio=0.7), metric=metric)
    before, after = (gracile.profile(m, DATA[:2])[name] for m in (model, small))
    assert 0.6 < after / before <= 0.7
    _, stats = run(model, by_hand((model.conv2, 0.5)), metric=metric)
    # A strided spatial SVD runs its first factor at more positions: 96 of 1152 multiplications a rank, where of the
    # 1168 parameters, bias included, a rank takes 72.
    assert [layer.size for layer in stats.report.layers if layer.size] == [{"macs": 6, "params": 7}[name]]
    assert 0.4 < stats.per_layer_stats[0].compression_ratio <= 0.5


@pytest.mark.parametrize("parameters", [spatial, lambda **o: by_hand((o.pop("model").conv2, 0.4), **o)])
def test_ranks_land_on_the_multiplicity(model, parameters):
    options = {} if parameters is spatial else {"model": model}
    small, _ = run(model, parameters(multiplicity=4, **options))
    assert small.conv2[0].out_channels % 4 == 0


def test_weight_svd_compresses_linear_layers(model):
    small, stats = run(model, weight(GreedySelectionParameters(0.7, 3), ignore=[model.conv1]))
    assert {layer.name for layer in stats.per_layer_stats} == {"conv2", "fc"}
    assert any(isinstance(layer, nn.Sequential) for layer in (small.conv2, small.fc))
    assert small(DATA).shape == (32, 10)


def test_monotonic_fit(model):
    _, stats = run(model, spatial(use_monotonic_fit=True))
    assert float(stats.mac_compression_ratio) <= 0.6


def test_a_module_under_two_names():
    model = Net()
    model.again = model.conv2
    small, stats = run(model, by_hand((model.again, 0.5)))
    assert [layer.name for layer in stats.per_layer_stats] == ["conv2"]
    assert small.again is small.conv2
    assert isinstance(small.conv2, nn.Sequential)
    small, _ = run(model, spatial(ignore=[model.again], target_comp_ratio=0.9))
    assert isinstance(small.conv2, nn.Conv2d)


def test_names_are_no_patterns():
    model = nn.Sequential()
    model.add_module("a[1]", nn.Conv2d(3, 8, 3))
    model.add_module("a1", nn.Conv2d(8, 8, 3))
    _, stats = run(model, by_hand((model[0], 0.5)))
    assert [layer.name for layer in stats.per_layer_stats] == ["a[1]"]


class Trainer:
    def __init__(self):
        self.calls = []

    def train_model(self, model, layer, train_flag=True):
        self.calls.append((model, layer, train_flag))
        model.train()
        if train_flag:
            with torch.no_grad():
                layer.module[1].weight.add_(0.0)


def test_the_trainer_is_called_once_without_training_and_then_after_each_change(model, folder):
    trainer = Trainer()
    model.eval()
    small, _ = run(model, by_hand((model.conv1, 0.5), (model.conv2, 0.5)), trainer=trainer)
    (given, whole, flag), *later = trainer.calls
    assert given is whole
    assert given is not model
    assert flag is False
    assert [layer.name for _, layer, _ in later] == ["conv1", "conv2"]
    assert all(trained is small and flag for trained, _, flag in later)
    assert later[0][1].module is small.conv1
    assert not small.training
    assert not model.training


def test_unchanged_layers_are_not_trained(model):
    trainer = Trainer()
    run(model, by_hand((model.conv1, None), (model.conv2, 0.5)), trainer=trainer)
    assert [layer.name for _, layer, flag in trainer.calls if flag] == ["conv2"]


def test_a_failing_trainer_loses_no_evaluation(model, folder):
    def fail(model, layer, train_flag=True):
        if train_flag:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run(model, spatial(), trainer=SimpleNamespace(train_model=fail))
    [file] = folder.iterdir()
    assert file.name == FILE
    callback = Callback(model)
    run(model, spatial(saved_eval_scores_dict=str(file)), callback)
    assert callback.iterations == [None, None]


def test_the_report_of_a_visualization_url_is_a_page_in_the_data_folder(model, folder, caplog):
    pytest.importorskip("plotly")
    with caplog.at_level("INFO", logger="gracile"):
        run(model, by_hand((model.conv2, 0.5)), visualization_url="http://localhost:5006")
    page = folder / "compression.html"
    assert "conv2" in page.read_text(encoding="utf-8")
    assert any(str(page) in record.message for record in caplog.records)


def test_a_visualization_url_that_names_a_file_is_that_file(model, folder, tmp_path):
    pytest.importorskip("plotly")
    run(model, by_hand((model.conv2, 0.5)), visualization_url=(tmp_path / "new" / "page.html").as_uri())
    assert "conv2" in (tmp_path / "new" / "page.html").read_text(encoding="utf-8")


def test_the_chosen_ratios_are_kept(model, folder):
    _, stats = run(model, spatial())
    kept = Ratios.model_validate_json((folder / Ratios.FILE).read_text())
    assert kept.ratios == tuple((layer.name, layer.compression_ratio) for layer in stats.per_layer_stats)
    assert any(ratio is not None and ratio < 1 for _, ratio in kept.ratios)


class TestSavedDictionary:
    def test_no_candidate_is_evaluated_again(self, model, folder):
        first, stats = run(model, spatial())
        file = stats.compression_ratio_selection_stats.eval_scores_file
        assert {path.name for path in folder.iterdir()} == {file.name, Ratios.FILE}
        callback = Callback(model)
        again, second = run(model, spatial(saved_eval_scores_dict=file, num_comp_ratio_candidates=9), callback)
        assert callback.iterations == [None, None]
        assert gracile.applied_plan(again) == gracile.applied_plan(first)
        assert second.per_layer_stats == stats.per_layer_stats
        assert second.compression_ratio_selection_stats == stats.compression_ratio_selection_stats
        assert second.report.search == "greedy"
        for name in ("dictionary", "dictionary_baseline", "bound", "metric"):
            assert getattr(second.report, name) == getattr(stats.report, name)

    def test_another_target_metric_and_multiplicity(self, model):
        _, stats = run(model, spatial())
        file = stats.compression_ratio_selection_stats.eval_scores_file
        callback = Callback(model)
        parameters = spatial(saved_eval_scores_dict=file, target_comp_ratio=0.8, multiplicity=2)
        small, again = run(model, parameters, callback, metric=CostMetric.memory)
        assert callback.iterations == [None, None]
        assert 0.7 < float(again.memory_compression_ratio) <= 0.8
        assert all(layer.size % 2 == 0 for layer in again.report.layers if layer.size)
        fresh, _ = run(model, spatial(target_comp_ratio=0.8, multiplicity=2), metric=CostMetric.memory)
        assert gracile.profile(fresh, DATA[:2]).params == pytest.approx(
            gracile.profile(small, DATA[:2]).params, rel=0.1
        )

    def test_more_modules_may_be_ignored(self, model):
        _, stats = run(model, spatial())
        file = stats.compression_ratio_selection_stats.eval_scores_file
        _, again = run(model, spatial(saved_eval_scores_dict=file, ignore=[model.conv1], target_comp_ratio=0.8))
        assert [layer.name for layer in again.per_layer_stats] == ["conv2"]

    def test_other_weights_are_noted(self, model):
        _, stats = run(model, spatial())
        file = stats.compression_ratio_selection_stats.eval_scores_file
        _, same = run(model, spatial(saved_eval_scores_dict=file))
        assert not any("other weights" in note for note in same.report.notes)
        _, other = run(Net(), spatial(saved_eval_scores_dict=file))
        assert any("other weights" in note for note in other.report.notes)

    def test_it_must_fit(self, model, folder):
        _, stats = run(model, spatial(ignore=[model.conv1]))
        file = stats.compression_ratio_selection_stats.eval_scores_file
        with pytest.raises(FileError, match="no scores of conv1"):
            run(model, spatial(saved_eval_scores_dict=file))
        with pytest.raises(FileError, match="scores of spatial_svd"):
            run(model, weight(GreedySelectionParameters(0.5, saved_eval_scores_dict=str(file))))
        other = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
        with pytest.raises(FileError, match="layers that the model has not conv2"):
            run(other, spatial(saved_eval_scores_dict=file))
        content = json.loads(file.read_text())
        content["scores"]["conv2"]["1000"] = 0.5
        file.write_text(json.dumps(content))
        with pytest.raises(FileError, match="too high for conv2"):
            run(model, spatial(saved_eval_scores_dict=file, ignore=[model.conv1]))


class TestTar:
    def parameters(self, count=5, **options):
        return weight(TarRankSelectionParameters(count), RankSelectScheme.tar, **options)

    def test_the_best_common_residual(self, model):
        callback = Callback(model)
        _, stats = run(model, self.parameters(), callback)
        selection = stats.compression_ratio_selection_stats
        assert isinstance(selection, TarCompressionRatioSelectionStats)
        # Two full evaluations, the original, and at most one model an index.
        assert callback.iterations[0] == 5
        assert len(callback.iterations) <= 2 + 1 + 5
        assert [index.residual for index in selection.rank_indices] == pytest.approx([i / 6 for i in range(1, 6)])
        ratios = [index.compression_ratio for index in selection.rank_indices]
        assert ratios == sorted(ratios, reverse=True)
        for index in selection.rank_indices:
            assert index.objective == pytest.approx(1 - index.accuracy + index.compression_ratio)
        best = min(selection.rank_indices, key=lambda index: index.objective)
        assert selection.selected is best
        assert float(stats.mac_compression_ratio) == pytest.approx(best.compression_ratio, abs=1e-6)
        assert float(stats.compressed_model_accuracy) == pytest.approx(best.accuracy, abs=1e-6)
        assert stats.report.search == "tar"
        assert "<- selected" in str(stats)

    def test_every_layer_takes_its_lowest_rank_within_the_residual(self, model):
        _, stats = run(model, self.parameters())
        allowed = stats.compression_ratio_selection_stats.selected.residual
        [rank] = [layer.size for layer in stats.report.layers if layer.name == "fc"]
        energy = torch.linalg.svdvals(model.fc.weight.detach()).square()
        left = [float((energy[kept:].sum() / energy.sum()).sqrt()) for kept in (rank, rank - 1)]
        assert left[0] <= allowed < left[1]

    def test_multiplicity_memory_and_spatial_svd(self, model):
        tar = SpatialSvdParameters.AutoModeParams(TarRankSelectionParameters(3))
        _, stats = run(model, spatial(tar, multiplicity=2), metric=CostMetric.memory)
        assert stats.report.metric == "params"
        assert all(layer.size % 2 == 0 for layer in stats.report.layers if layer.size)

    def test_scores_below_zero_and_zero(self, model):
        callback = Callback(model)
        _, stats = run(model, self.parameters(), lambda m, i, c: -1 / callback(m, i, c))
        for index in stats.compression_ratio_selection_stats.rank_indices:
            assert index.objective >= index.compression_ratio
        with pytest.raises(EvaluationError, match="the original model 0"):
            run(model, self.parameters(), lambda m, i, c: 0.0)


class TestInputs:
    def test_several_shapes(self):
        class Two(nn.Module):
            def __init__(self):
                super().__init__()
                self.left, self.right = nn.Conv2d(3, 8, 3), nn.Conv2d(5, 8, 3)

            def forward(self, x, y):
                return self.left(x) + self.right(y)

        model = Two()
        inputs = torch.rand(2, 3, 6, 6), torch.rand(2, 5, 6, 6)
        small, stats = run(
            model,
            by_hand((model.left, 0.5)),
            lambda m, i, c: float(m(*inputs).mean()),
            shape=[(1, 3, 6, 6), [1, 5, 6, 6]],
        )
        assert isinstance(small.left, nn.Sequential)
        assert float(stats.mac_compression_ratio) < 1

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_the_dtype_is_the_models(self, dtype):
        model = Net().to(dtype)
        callback = Callback(model, DATA.to(dtype))
        small, _ = run(model, by_hand((model.conv2, 0.5)), callback)
        assert small.conv2[0].weight.dtype == dtype

    def test_integer_inputs_are_given_as_tensors(self):
        model = nn.Sequential(nn.Embedding(11, 16), nn.Linear(16, 16))
        tokens = torch.randint(11, (2, 5))
        params = WeightSvdParameters(
            WeightSvdParameters.Mode.manual,
            WeightSvdParameters.ManualModeParams([ModuleCompRatioPair(model[1], 0.5)]),
        )
        for shape in (tokens, [tokens]):
            small, _ = run(model, params, lambda m, i, c: float(m(tokens).mean()), shape=shape)
            assert isinstance(small[1], nn.Sequential)
        with pytest.raises(CaptureError, match=r"input_shape|torch\.long"):
            run(model, params, lambda m, i, c: 0.5, shape=(2, 5))

    @pytest.mark.parametrize("shape", [3, (), "1,3", (1, 3, 0, 6), (1, 3.0), [(1, 3), "x"], None])
    def test_refused_shapes(self, model, shape):
        with pytest.raises(InputError, match="input_shape"):
            run(model, spatial(), shape=shape)

    def test_the_random_stream_goes_on(self, model):
        torch.manual_seed(3)
        expected = torch.rand(1)
        torch.manual_seed(3)
        run(model, by_hand((model.conv2, 0.5)))
        assert torch.rand(1) == expected


class TestRefusals:
    @pytest.mark.parametrize("modules", [[nn.Conv2d(3, 8, 3)], ["conv1"]])
    def test_modules_of_another_model(self, model, modules):
        with pytest.raises(InputError, match=r"modules_to_ignore.*(Conv2d\(3, 8.*not part of this Net|'conv1')"):
            run(model, spatial(ignore=modules))
        with pytest.raises(InputError, match="list_of_module_comp_ratio_pairs"):
            run(model, by_hand((modules[0], 0.5)))

    @pytest.mark.parametrize("ratio", [0, 1.5, -0.1, "0.5", True, Decimal(2)])
    def test_ratios(self, model, ratio):
        with pytest.raises(InputError, match="comp_ratio"):
            run(model, by_hand((model.conv1, ratio)))
        with pytest.raises(InputError, match="target_comp_ratio"):
            GreedySelectionParameters(ratio)

    @pytest.mark.parametrize("count", [1, 0, 2.5, True])
    def test_counts(self, count):
        with pytest.raises(ValueError, match="num_comp_ratio_candidates"):
            GreedySelectionParameters(0.5, count)
        with pytest.raises(ValueError, match="num_rank_indices"):
            TarRankSelectionParameters(count)

    def test_layers_that_cannot_be_compressed(self, model):
        with pytest.raises(InputError, match="depthwise cannot be compressed by spatial_svd: grouped"):
            run(model, by_hand((model.depthwise, 0.5)))
        with pytest.raises(InputError, match="fc cannot be compressed"):
            run(model, by_hand((model.conv1, 0.5), (model.fc, 0.5)))
        with pytest.raises(InputError, match="the model cannot be compressed"):
            run(model, by_hand((model, 0.5)))
        everything = [model.conv1, model.conv2]
        with pytest.raises(InputError, match="no layer can be compressed"):
            run(model, spatial(ignore=everything))
        tar = SpatialSvdParameters.AutoModeParams(TarRankSelectionParameters(3), everything)
        with pytest.raises(InputError, match="no layer can be compressed"):
            run(model, spatial(tar))

    def test_pairs(self, model):
        with pytest.raises(InputError, match="empty"):
            run(model, by_hand())
        with pytest.raises(InputError, match="two ratios for conv1"):
            run(model, by_hand((model.conv1, 0.5), (model.conv1, 0.4)))
        with pytest.raises(InputError, match="holds a tuple"):
            run(model, spatial(SpatialSvdParameters.ManualModeParams([(model.conv1, 0.5)])))

    @pytest.mark.parametrize("multiplicity", [0, -4, 1.5, True])
    def test_multiplicity(self, model, multiplicity):
        with pytest.raises(ValueError, match="multiplicity"):
            run(model, spatial(multiplicity=multiplicity))

    def test_parameters_that_do_not_go_together(self, model):
        greedy, tar = GreedySelectionParameters(0.5), TarRankSelectionParameters(3)
        arguments = {
            "model": model, "eval_callback": Callback(model), "eval_iterations": 1, "input_shape": (1, 3, 6, 6),
            "compress_scheme": CompressionScheme.spatial_svd, "cost_metric": CostMetric.mac, "parameters": spatial(),
        }  # fmt: skip
        manual = SpatialSvdParameters.ManualModeParams([ModuleCompRatioPair(model.conv1, 0.5)])
        wrong = [
            ("compress_scheme is 'spatial_svd'", {"compress_scheme": "spatial_svd"}),
            ("cost_metric is 'mac'", {"cost_metric": "mac"}),
            ("spatial_svd takes SpatialSvdParameters", {"parameters": weight(greedy)}),
            ("takes ChannelPruningParameters", {"compress_scheme": CompressionScheme.channel_pruning}),
            ("mode is 'auto'", {"parameters": SpatialSvdParameters("auto", manual)}),
            ("in auto mode", {"parameters": SpatialSvdParameters(SpatialSvdParameters.Mode.auto, manual)}),
            ("selection parameters are a float", {"parameters": spatial(SpatialSvdParameters.AutoModeParams(0.5))}),
            ("eval_callback is a float", {"eval_callback": 0.5}),
            ("trainer is a Callback", {"trainer": Callback(model)}),
            ("model is a str", {"model": "resnet18"}),
        ]
        for message, options in wrong:
            with pytest.raises(InputError, match=message):
                ModelCompressor.compress_model(**{**arguments, **options})
        for select, scheme in ((greedy, RankSelectScheme.tar), (tar, RankSelectScheme.greedy), (greedy, "greedy")):
            with pytest.raises(InputError, match="rank_select_scheme"):
                run(model, weight(select, scheme))

    def test_an_unreachable_target(self, model):
        with pytest.raises(TargetError, match="cannot be reached"):
            run(model, spatial(target_comp_ratio=0.05))

    def test_a_failing_callback_is_named(self, model):
        def broken_evaluation(model, iterations, use_cuda):
            raise KeyError("labels")

        with pytest.raises(EvaluationError, match="broken_evaluation failed on the original model: KeyError"):
            run(model, spatial(), broken_evaluation)
