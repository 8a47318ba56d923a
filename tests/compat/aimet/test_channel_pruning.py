"""Channel pruning through `ModelCompressor`: AIMET's words, gracile's channel groups."""

import copy
import json
from decimal import Decimal

import pytest
import torch
from nets import SmallNet, agreement, images, trained_like
from torch import nn

import gracile
from gracile.channels import channel_groups
from gracile.compat.aimet import (
    ChannelPruningParameters,
    CompressionScheme,
    CompressionStats,
    CostMetric,
    GreedySelectionParameters,
    ModelCompressor,
    ModuleCompRatioPair,
    SpatialSvdParameters,
    TarRankSelectionParameters,
)
from gracile.compat.aimet.evaluations import Ratios
from gracile.compat.aimet.samples import Samples
from gracile.errors import FileError, InputError, TargetError
from gracile.graph import capture

DATA = images(64)
LOADER = [(DATA[start : start + 16], torch.zeros(16)) for start in range(0, 64, 16)]
SHAPE = (1, 3, 10, 10)
Mode, Auto, Manual = (
    ChannelPruningParameters.Mode,
    ChannelPruningParameters.AutoModeParams,
    ChannelPruningParameters.ManualModeParams,
)

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return trained_like(SmallNet(8))


class Parts(nn.Module):
    """Its first layer writes two groups, one of them named after it."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3)
        self.left, self.right = nn.Conv2d(6, 8, 1), nn.Conv2d(10, 4, 1)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        left, right = torch.relu(self.first(x)).split((6, self.right.in_channels), 1)
        return self.last(torch.relu(self.left(left))), self.right(right)


class Callback:
    def __init__(self, model):
        self.evaluate = agreement(model, DATA)
        self.iterations = []

    def __call__(self, model, iterations, use_cuda):
        self.iterations.append(iterations)
        return self.evaluate(model)


def auto(target=0.6, *, ignore=None, loader=LOADER, multiplicity=1, samples=500, **greedy):
    select = GreedySelectionParameters(target, **{"num_comp_ratio_candidates": 4, **greedy})
    return ChannelPruningParameters(loader, samples, True, Mode.auto, Auto(select, ignore), multiplicity)


def by_hand(*pairs, multiplicity=1, loader=LOADER):
    params = Manual([ModuleCompRatioPair(*pair) for pair in pairs])
    return ChannelPruningParameters(loader, 500, False, Mode.manual, params, multiplicity)


def run(model, parameters, callback=None, *, metric=CostMetric.mac, shape=SHAPE, **options):
    return ModelCompressor.compress_model(
        model, callback or Callback(model), 5, shape, CompressionScheme.channel_pruning, metric, parameters, **options
    )


def ratios(stats):
    return {layer.name: layer.compression_ratio for layer in stats.per_layer_stats}


class TestAuto:
    def test_it_is_gracile_greedy_on_what_convolutions_read(self, model):
        state = copy.deepcopy(model.state_dict())
        callback = Callback(model)
        small, stats = run(model, auto(ignore=[model.stem]), callback)
        own = gracile.compress(
            model, torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)), evaluate=callback.evaluate,
            evaluate_search=callback.evaluate, target=gracile.Target(macs=0.6), method="channel_pruning",
            search=gracile.Search(kind="greedy", candidates=4), round_to=1, max_sparsity=0.999, exclude=["wide"],
            calibration=LOADER,
        )  # fmt: skip
        assert gracile.applied_plan(small) == own.plan
        torch.testing.assert_close(small(DATA), own.model(DATA), rtol=0, atol=0)
        assert 0.5 < float(stats.mac_compression_ratio) <= 0.6
        assert type(small) is SmallNet
        # What the linear head reads stays, as in AIMET.
        assert small.wide.out_channels == 16
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())

    def test_statistics_are_those_of_layers(self, model, folder):
        small, stats = run(model, auto())
        assert list(ratios(stats)) == ["block.conv2", "block.conv1", "block.shortcut", "wide"]
        for name, ratio in ratios(stats).items():
            layer, whole = small.get_submodule(name), model.get_submodule(name)
            assert (ratio or 1.0) == layer.in_channels / whole.in_channels
        selection = stats.compression_ratio_selection_stats
        scores = selection.eval_scores_dictionary
        assert list(scores) == list(ratios(stats))
        assert list(scores["wide"]) == [Decimal("0.25"), Decimal("0.5"), Decimal("0.75")]
        assert scores["block.conv1"] == scores["block.shortcut"]
        assert selection.eval_scores_file == folder / "greedy_selection_eval_scores_dict.json"
        assert "block.shortcut" in str(stats)
        assert [row.read_by for row in stats.report.layers if row.name == "stem"] == [("block.conv1", "block.shortcut")]

    def test_the_callback_gets_the_iterations(self, model):
        callback = Callback(model)
        run(model, auto(), callback)
        assert callback.iterations[0] is callback.iterations[-1] is None
        # The original, three groups at three candidates, and some models with all groups cut.
        assert set(callback.iterations[1:-1]) == {5}
        assert 1 + 9 < len(callback.iterations[1:-1]) <= 1 + 9 + 5

    @pytest.mark.parametrize(("metric", "name"), [(CostMetric.mac, "macs"), (CostMetric.memory, "params")])
    def test_cost_metrics(self, model, metric, name):
        small, _ = run(model, auto(0.65), metric=metric)
        before, after = (gracile.profile(m, DATA[:2])[name] for m in (model, small))
        assert 0.5 < after / before <= 0.65

    def test_multiplicity(self, model):
        small, _ = run(model, auto(multiplicity=4))
        widths = [small.block.conv1.in_channels, small.block.conv1.out_channels, small.wide.in_channels]
        assert all(width % 4 == 0 for width in widths)

    def test_an_ignored_module_keeps_its_inputs_and_may_lose_outputs(self, model):
        # The shortcut reads what block.conv1 reads.
        small, stats = run(model, auto(0.8, ignore=[model.block.shortcut, model.stem]))
        assert list(ratios(stats)) == ["block.conv2", "wide"]
        assert small.block.shortcut.in_channels == small.block.conv1.in_channels == 8
        assert small.block.shortcut.out_channels < 8 or small.block.conv1.out_channels < 8

    def test_a_target_out_of_reach(self, model):
        with pytest.raises(TargetError, match="cannot be reached"):
            run(model, auto(0.01))

    def test_nothing_left(self, model):
        ignore = [model.block.conv1, model.block.conv2, model.wide]
        with pytest.raises(InputError, match=r"no layer can be pruned.*manual mode"):
            run(model, auto(ignore=ignore))

    def test_tar_is_refused(self, model):
        params = Auto(TarRankSelectionParameters(3))
        with pytest.raises(InputError, match=r"channel pruning has none.*search='tar'"):
            run(model, ChannelPruningParameters(LOADER, 10, True, Mode.auto, params))


class TestManual:
    def test_the_ratio_is_the_share_of_the_inputs(self, model):
        small, stats = run(model, by_hand((model.block.conv2, 0.5), (model.wide, Decimal("0.25")), (model.stem, None)))
        assert small.block.conv2.in_channels == small.block.conv1.out_channels == 4
        assert small.wide.in_channels == small.depthwise.groups == small.block.conv2.out_channels == 2
        assert ratios(stats) == {"block.conv2": 0.5, "wide": 0.25, "stem": None}
        assert stats.compression_ratio_selection_stats is None
        assert not stats.report.notes
        # What stays whole is not even ranked.
        reasons = {row.name: row.reason for row in stats.report.layers}
        assert reasons["stem"] == "excluded by 'stem'"

    def test_neighbours_have_ratios_of_their_own(self, model):
        """Each name is that of a layer, and that of the group which it writes."""
        small, stats = run(model, by_hand((model.block.conv1, 0.25), (model.block.conv2, 0.75), (model.wide, 0.5)))
        assert small.stem.out_channels == 2
        assert small.block.conv1.out_channels == 6
        assert small.block.conv2.out_channels == 4
        assert small.wide.out_channels == 16
        # The shortcut was not given, and lost what block.conv1 lost.
        assert ratios(stats) == {"block.conv1": 0.25, "block.conv2": 0.75, "wide": 0.5, "block.shortcut": 0.25}

    def test_layers_are_rebuilt_by_least_squares(self, model):
        small, _ = run(model, by_hand((model.block.conv2, 0.25)))
        cut = gracile.apply(model, gracile.applied_plan(small))
        evaluate = agreement(model, DATA)
        with torch.no_grad():
            assert evaluate(small) > 0.5 * evaluate(cut)

    def test_none_and_one_leave_a_layer_as_it_is(self, model):
        small, stats = run(model, by_hand((model.block.conv1, None), (model.wide, 1.0)))
        assert len(gracile.applied_plan(small).edits) == 0
        assert ratios(stats) == {"block.conv1": None, "wide": None}

    def test_of_layers_that_read_the_same_channels_the_higher_ratio_counts(self, model, caplog):
        small, stats = run(model, by_hand((model.block.conv1, 0.25), (model.block.shortcut, 0.75)))
        assert small.stem.out_channels == 6
        notes = [note for note in stats.report.notes if "block.conv1 keeps 0.75" in note]
        assert len(notes) == 1
        assert notes[0] in caplog.text
        assert ratios(run(model, by_hand((model.block.conv1, 0.25), (model.block.shortcut, None)))[1]) == {
            "block.conv1": None,
            "block.shortcut": None,
        }

    def test_linear_layers(self, model):
        small, stats = run(model, by_hand((model.head, 0.5)))
        assert small.head.in_features == small.wide.out_channels == 8
        assert ratios(stats) == {"head": 0.5}

    def test_multiplicity(self, model):
        small, stats = run(model, by_hand((model.wide, 0.7), (model.block.conv2, 0.1), multiplicity=4))
        assert (small.wide.in_channels, small.block.conv2.in_channels) == (4, 4)
        assert any("block.conv2 keeps 0.5 of its inputs where 0.1 was given" in note for note in stats.report.notes)

    def test_one_channel_may_be_all_that_stays(self, model):
        small, _ = run(model, by_hand((model.wide, 0.01)))
        assert small.wide.in_channels == 1

    def test_parts_of_one_layer(self):
        """Either can be cut without the other."""
        model = Parts().eval()
        groups = channel_groups(capture(model, torch.rand(SHAPE))).groups
        assert [group.name for group in groups] == ["first", "left", "first#2"]
        small, stats = ModelCompressor.compress_model(
            model, lambda m, i, c: 0.0, 1, SHAPE, CompressionScheme.channel_pruning, CostMetric.mac,
            by_hand((model.right, 0.5)),
        )  # fmt: skip
        assert (small.left.in_channels, small.right.in_channels) == (6, 5)
        assert ratios(stats) == {"right": 0.5}

    def test_below_a_concatenation(self):
        class Two(nn.Module):
            def __init__(self):
                super().__init__()
                self.left, self.right = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 4, 3)
                self.both = nn.Conv2d(12, 4, 1)
                self.only = nn.Conv2d(4, 4, 1)

            def forward(self, x):
                right = torch.relu(self.right(x))
                return self.both(torch.cat([torch.relu(self.left(x)), right], 1)) + self.only(right)

        model = Two().eval()
        small, stats = run(model, by_hand((model.both, 0.5)))
        assert (small.left.out_channels, small.right.out_channels) == (4, 2)
        assert ratios(stats) == {"both": 0.5, "only": 0.5}
        small, stats = run(model, auto(0.8))
        assert ratios(stats)["both"] == small.both.in_channels / 12
        # What both read of `left` nobody else reads; what it reads of `right` is listed as the group.
        assert set(stats.compression_ratio_selection_stats.eval_scores_dictionary) == {"left", "only"}

    def test_refused_layers(self, model):
        with pytest.raises(InputError, match=r"stem cannot be pruned: its inputs are those of the model.*block\.conv1"):
            run(model, by_hand((model.stem, 0.5)))
        with pytest.raises(InputError, match="depthwise cannot be pruned: it is no ungrouped"):
            run(model, by_hand((model.depthwise, 0.5)))
        with pytest.raises(InputError, match=r"block\.bn1 cannot be pruned: it is no ungrouped"):
            run(model, by_hand((model.block.bn1, 0.5)))

    def test_channels_that_the_model_returns(self):
        class Returns(nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.second, self.third = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1)

            def forward(self, x):
                features = self.second(torch.relu(self.first(x)))
                return features, self.third(features)

        model = Returns().eval()
        with pytest.raises(InputError, match=r"third cannot be pruned: the model returns it.*second"):
            ModelCompressor.compress_model(
                model, lambda m, i, c: 0.0, 1, SHAPE, CompressionScheme.channel_pruning, CostMetric.mac,
                by_hand((model.third, 0.5)),
            )  # fmt: skip


class Trainer:
    def __init__(self):
        self.calls = []

    def train_model(self, model, layer, train_flag=True):
        self.calls.append((model, layer, train_flag))


def test_the_trainer_is_called_for_each_group_that_was_cut(model):
    trainer = Trainer()
    small, _ = run(model, by_hand((model.wide, 0.5), (model.block.shortcut, 0.5)), trainer=trainer)
    (given, whole, flag), *later = trainer.calls
    assert given is whole
    assert given is not model
    assert flag is False
    assert [(layer.name, layer.module) for _, layer, _ in later] == [
        ("block.shortcut", small.block.shortcut),
        ("wide", small.wide),
    ]
    assert all(trained is small and flag for trained, _, flag in later)
    trainer = Trainer()
    run(model, auto(), trainer=trainer)
    assert {layer.name for _, layer, flag in trainer.calls if flag} <= {"block.conv2", "block.conv1", "wide"}


class TestSavedDictionary:
    def test_no_single_group_is_evaluated_again(self, model, folder):
        first, stats = run(model, auto())
        file = stats.compression_ratio_selection_stats.eval_scores_file
        assert json.loads(file.read_text())["scheme"] == "channel_pruning"
        callback = Callback(model)
        again, second = run(model, auto(saved_eval_scores_dict=file, num_comp_ratio_candidates=9), callback)
        assert callback.iterations[0] is callback.iterations[-1] is None
        # Models with all groups cut, and no others.
        assert len(callback.iterations) <= 2 + 5
        assert gracile.applied_plan(again) == gracile.applied_plan(first)
        assert second.per_layer_stats == stats.per_layer_stats
        assert second.compression_ratio_selection_stats == stats.compression_ratio_selection_stats
        for name in ("search", "dictionary", "dictionary_baseline", "bound", "metric", "notes"):
            assert getattr(second.report, name) == getattr(stats.report, name)
        assert {path.name for path in folder.iterdir()} == {file.name, Ratios.FILE}

    def test_another_target_metric_and_multiplicity(self, model):
        _, stats = run(model, auto())
        file = stats.compression_ratio_selection_stats.eval_scores_file
        callback = Callback(model)
        parameters = auto(0.7, saved_eval_scores_dict=str(file), multiplicity=4)
        small, again = run(model, parameters, callback, metric=CostMetric.memory)
        assert len(callback.iterations) <= 2 + 5
        assert float(again.memory_compression_ratio) <= 0.7
        assert small.wide.in_channels % 4 == small.block.conv1.in_channels % 4 == 0

    def test_a_file_without_its_number_of_candidates(self, model):
        first, stats = run(model, auto())
        file = stats.compression_ratio_selection_stats.eval_scores_file
        content = json.loads(file.read_text())
        del content["candidates"]
        file.write_text(json.dumps(content))
        again, _ = run(model, auto(saved_eval_scores_dict=file))
        assert gracile.applied_plan(again) == gracile.applied_plan(first)

    def test_evaluations_need_not_be_deterministic(self, model):
        _, stats = run(model, auto())
        file = stats.compression_ratio_selection_stats.eval_scores_file
        callback = Callback(model)
        noise = iter(range(100))
        parameters = auto(saved_eval_scores_dict=file)
        _, again = run(model, parameters, lambda m, i, c: callback(m, i, c) + 1e-3 * next(noise))
        assert float(again.mac_compression_ratio) <= 0.6

    def test_parts_of_one_layer(self):
        model = Parts().eval()

        def callback(model, iterations, use_cuda):
            return float(model(DATA)[0].mean())

        _, stats = run(model, auto(0.95, ignore=[model.left]), callback)
        file = stats.compression_ratio_selection_stats.eval_scores_file
        _, again = run(model, auto(0.95, ignore=[model.left], saved_eval_scores_dict=file), callback)
        assert again.per_layer_stats == stats.per_layer_stats

    def test_other_weights_are_noted(self, model, caplog):
        _, stats = run(model, auto())
        file = stats.compression_ratio_selection_stats.eval_scores_file
        _, other = run(trained_like(SmallNet(8), seed=1), auto(saved_eval_scores_dict=file))
        assert any("other weights" in note for note in other.report.notes)
        assert "other weights" in caplog.text

    def test_it_must_fit(self, model):
        _, stats = run(model, auto(ignore=[model.wide]))
        file = stats.compression_ratio_selection_stats.eval_scores_file
        with pytest.raises(FileError, match=r"no scores of block\.conv2"):
            run(model, auto(saved_eval_scores_dict=file))
        with pytest.raises(FileError, match="its widths are too high for"):
            run(trained_like(SmallNet(4)), auto(saved_eval_scores_dict=file, ignore=[]))
        chain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
        with pytest.raises(FileError, match=r"channel groups that the model has not block\.conv1, stem"):
            run(chain, auto(saved_eval_scores_dict=file))
        svd = SpatialSvdParameters.AutoModeParams(GreedySelectionParameters(0.6, saved_eval_scores_dict=file))
        with pytest.raises(FileError, match=r"scores of channel_pruning.*spatial_svd"):
            ModelCompressor.compress_model(
                model, Callback(model), 5, SHAPE, CompressionScheme.spatial_svd, CostMetric.mac,
                SpatialSvdParameters(SpatialSvdParameters.Mode.auto, svd),
            )  # fmt: skip


class TestSamples:
    @pytest.mark.parametrize(("samples", "images"), [(1, 128), (1280, 128), (1281, 144), (10**6, 320)])
    def test_whole_batches_until_there_are_images_enough(self, samples, images):
        batches = [(torch.zeros(16, 3), torch.zeros(16)) for _ in range(20)]
        for loader in (batches, iter(batches)):
            limited = Samples(loader, samples)
            for _ in range(2):
                assert sum(len(inputs) for inputs, _ in limited) == images

    def test_loaders_without_length(self, model):
        class Loader:
            def __iter__(self):
                return iter(LOADER)

        expected, _ = run(model, by_hand((model.wide, 0.5)))
        for loader in (Loader(), iter(LOADER), [inputs for inputs, _ in LOADER]):
            small, _ = run(model, by_hand((model.wide, 0.5), loader=loader))
            torch.testing.assert_close(small(DATA), expected(DATA), rtol=0, atol=0)

    @pytest.mark.parametrize("loader", [None, 3, DATA, "images"])
    def test_what_is_no_loader(self, model, loader):
        with pytest.raises(InputError, match="data_loader is a"):
            run(model, by_hand((model.wide, 0.5), loader=loader))

    def test_loaders_of_something_else(self, model):
        with pytest.raises(InputError, match="data_loader yields no batch"):
            run(model, by_hand((model.wide, 0.5), loader=[]))
        with pytest.raises(InputError, match="data_loader yields a str"):
            run(model, by_hand((model.wide, 0.5), loader=["image.png"]))

    @pytest.mark.parametrize("number", [0, -1, 2.5, True, "10"])
    def test_numbers(self, model, number):
        with pytest.raises(InputError, match="num_reconstruction_samples"):
            run(model, auto(samples=number))


def test_several_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
            self.last = nn.Conv2d(8, 4, 1)

        def forward(self, x, y):
            return self.last(torch.relu(self.left(x) + self.right(y)))

    model = Two().eval()
    loader = [((inputs, inputs.flip(0)), labels) for inputs, labels in LOADER]
    small, stats = run(
        model,
        by_hand((model.last, 0.5), loader=loader),
        lambda m, i, c: float(m(DATA, DATA).mean()),
        shape=[SHAPE, SHAPE],
    )
    assert small.left.out_channels == small.right.out_channels == 4
    assert isinstance(stats, CompressionStats)
