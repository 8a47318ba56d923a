"""Scripts as AIMET's documentation has them: only the import prefixes differ."""

import os
import subprocess
import sys

# The prefixes stand for aimet_torch and aimet_common, which is all that a migration changes.
COMMON = """
from decimal import Decimal

import torch
from torch import nn

from {torch}.compress import ModelCompressor
from {torch}.defs import ModuleCompRatioPair, WeightSvdParameters
from {common}.defs import CompressionScheme, CostMetric, GreedySelectionParameters, RankSelectScheme

torch.manual_seed(0)
model = nn.Sequential()
model.add_module("conv1", nn.Conv2d(3, 8, 3, padding=1))
model.add_module("relu1", nn.ReLU())
model.add_module("conv2", nn.Conv2d(8, 16, 3, padding=1))
model.add_module("relu2", nn.ReLU())
model.add_module("flatten", nn.Flatten())
model.add_module("fc", nn.Linear(16 * 8 * 8, 10))
model.eval()
data = torch.randn(16, 3, 8, 8)
labels = model(data).argmax(1)


def evaluate_model(model, iterations, use_cuda=False):
    rows = slice(None) if iterations is None else slice(8 * iterations)
    return (model(data[rows]).argmax(1) == labels[rows]).float().mean().item()
"""

AUTO = """
greedy_params = GreedySelectionParameters(target_comp_ratio=Decimal(0.5), num_comp_ratio_candidates=4)
auto_params = WeightSvdParameters.AutoModeParams(
    rank_select_scheme=RankSelectScheme.greedy,
    select_params=greedy_params,
    modules_to_ignore=[model.conv1],
)
params = WeightSvdParameters(mode=WeightSvdParameters.Mode.auto, params=auto_params)
compressed_model, stats = ModelCompressor.compress_model(
    model=model,
    eval_callback=evaluate_model,
    eval_iterations=1,
    input_shape=(1, 3, 8, 8),
    compress_scheme=CompressionScheme.weight_svd,
    cost_metric=CostMetric.mac,
    parameters=params,
)
assert 0.4 < float(stats.mac_compression_ratio) <= 0.5, stats.mac_compression_ratio
"""

MANUAL = """
manual_params = WeightSvdParameters.ManualModeParams(
    [ModuleCompRatioPair(model.conv2, 0.6), ModuleCompRatioPair(model.fc, 0.3)]
)
params = WeightSvdParameters(mode=WeightSvdParameters.Mode.manual, params=manual_params, multiplicity=8)
compressed_model, stats = ModelCompressor.compress_model(
    model=model,
    eval_callback=evaluate_model,
    eval_iterations=1,
    input_shape=(1, 3, 8, 8),
    compress_scheme=CompressionScheme.weight_svd,
    cost_metric=CostMetric.memory,
    parameters=params,
)
assert compressed_model.fc[0].out_features % 8 == 0
"""

PRUNING = """
from torch.utils.data import DataLoader, TensorDataset

from {torch}.defs import ChannelPruningParameters
from {torch}.winnow.winnow import winnow_model

greedy_params = GreedySelectionParameters(target_comp_ratio=Decimal(0.6), num_comp_ratio_candidates=4)
auto_params = ChannelPruningParameters.AutoModeParams(greedy_params, modules_to_ignore=[model.conv1])
params = ChannelPruningParameters(
    data_loader=DataLoader(TensorDataset(data, labels), batch_size=4),
    num_reconstruction_samples=100,
    allow_custom_downsample_ops=False,
    mode=ChannelPruningParameters.Mode.auto,
    params=auto_params,
)
compressed_model, stats = ModelCompressor.compress_model(
    model=model,
    eval_callback=evaluate_model,
    eval_iterations=1,
    input_shape=(1, 3, 8, 8),
    compress_scheme=CompressionScheme.channel_pruning,
    cost_metric=CostMetric.mac,
    parameters=params,
)
assert 0.4 < float(stats.mac_compression_ratio) <= 0.6, stats.mac_compression_ratio
assert [layer.name for layer in stats.per_layer_stats] == ["conv2"]
winnowed_model, winnowed_modules = winnow_model(
    model, (1, 3, 8, 8), [(model.conv2, [1, 6])], reshape=True, in_place=False, verbose=False
)
assert winnowed_model.conv1.out_channels == 6
assert [name for name, _ in winnowed_modules] == ["conv1", "conv2"]
"""

AFTER = """
print(stats)
assert compressed_model(data).shape == (16, 10)
assert isinstance(model.fc, nn.Linear)
"""


def test_scripts_run_and_leave_nothing_in_the_working_folder(tmp_path):
    work, cache = tmp_path / "work", tmp_path / "cache"
    work.mkdir()
    names = {"torch": "gracile.compat.aimet", "common": "gracile.compat.aimet.common"}
    environment = {key: value for key, value in os.environ.items() if key != "GRACILE_DATA"}
    script = COMMON.format(**names) + AUTO + AFTER + MANUAL + AFTER + PRUNING.format(**names) + AFTER
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=work,
        env={**environment, "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("MAC ratio") == 3
    assert list(work.iterdir()) == []
    kept = {path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()}
    assert kept == {
        "gracile/greedy_selection_eval_scores_dict.json",
        "gracile/greedy_selection_comp_ratios_list.json",
    }
