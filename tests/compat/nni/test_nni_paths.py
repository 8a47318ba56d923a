"""Names and places: with ``nni`` replaced by ``gracile.compat.nni`` imports lead to the right generation."""

import importlib
import inspect

import pytest

from gracile.compat import nni as facade
from gracile.compat.nni import v2, v3

SIXTEEN = {
    "ADMMPruner", "AGPPruner", "AMCPruner", "ActivationAPoZRankPruner", "ActivationMeanRankPruner",
    "AutoCompressPruner", "FPGMPruner", "L1NormPruner", "L2NormPruner", "LevelPruner", "LinearPruner",
    "LotteryTicketPruner", "MovementPruner", "SimulatedAnnealingPruner", "SlimPruner", "TaylorFOWeightPruner",
}  # fmt: skip
NINE = {
    "AGPPruner", "FPGMPruner", "L1NormPruner", "L2NormPruner", "LevelPruner", "LinearPruner", "MovementPruner",
    "SlimPruner", "TaylorPruner",
}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "generation", "names"),
    [
        ("compression.pytorch.pruning", v2, SIXTEEN),
        ("algorithms.compression.v2.pytorch.pruning", v2, SIXTEEN),
        ("compression.pruning", v3, NINE),
        ("contrib.compression.pruning", v3, NINE),
    ],
)
def test_pruners(path, generation, names):
    module = importlib.import_module(f"gracile.compat.nni.{path}")
    assert set(module.__all__) == names
    assert all(getattr(module, name) is getattr(generation, name) for name in names)


@pytest.mark.parametrize(
    ("path", "generation", "names"),
    [
        ("compression", v3, ["TorchEvaluator", "LightningEvaluator", "TransformersEvaluator"]),
        ("compression.utils", v3, ["TorchEvaluator", "auto_set_denpendency_group_ids", "count_flops_params"]),
        ("compression.speedup", v3, ["ModelSpeedup", "auto_set_denpendency_group_ids"]),
        ("contrib.compression", v3, ["TorchEvaluator"]),
        ("contrib.compression.speedup", v3, ["ModelSpeedup"]),
        ("contrib.compression.utils", v3, ["auto_set_denpendency_group_ids"]),
        ("compression.pytorch", v2, ["TorchEvaluator", "LightningEvaluator", "TransformersEvaluator", "ModelSpeedup"]),
        ("compression.pytorch.speedup", v2, ["ModelSpeedup"]),
        ("compression.pytorch.speedup.v2", v2, ["ModelSpeedup"]),
        ("compression.pytorch.utils", v2, ["count_flops_params", "ChannelDependency", "SensitivityAnalysis"]),
        ("compression.pytorch.utils.counter", v2, ["count_flops_params"]),
        ("compression.pytorch.utils.shape_dependency", v2, ["ChannelDependency", "GroupDependency"]),
        ("compression.pytorch.utils.sensitivity_analysis", v2, ["SensitivityAnalysis"]),
        ("algorithms.compression.v2.pytorch", v2, ["TorchEvaluator"]),
    ],
)
def test_tools(path, generation, names):
    module = importlib.import_module(f"gracile.compat.nni.{path}")
    assert all(getattr(module, name) is getattr(generation, name) for name in names)


def test_each_pruner_in_the_newest_form_that_documents_it():
    for name in NINE:
        assert getattr(facade, name) is getattr(v3, name)
    for name in SIXTEEN - NINE:
        assert getattr(facade, name) is getattr(v2, name)
    assert facade.TorchEvaluator is v3.TorchEvaluator
    assert facade.__all__ == sorted(facade.__all__)


# As NNI documents them; what stands behind the last of these is gracile's own.
SIGNATURES = {
    v2.LevelPruner: "model config_list mode balance_gran",
    v2.L1NormPruner: "model config_list mode dummy_input",
    v2.L2NormPruner: "model config_list mode dummy_input",
    v2.FPGMPruner: "model config_list mode dummy_input",
    v2.SlimPruner: "model config_list evaluator training_epochs scale mode",
    v2.ActivationAPoZRankPruner: "model config_list evaluator training_steps activation mode dummy_input",
    v2.ActivationMeanRankPruner: "model config_list evaluator training_steps activation mode dummy_input",
    v2.TaylorFOWeightPruner: "model config_list evaluator training_steps mode dummy_input",
    v2.ADMMPruner: "model config_list evaluator iterations training_epochs granularity",
    v2.MovementPruner: "model config_list evaluator warm_up_step cool_down_beginning_step training_epochs "
    "training_steps regular_scale movement_mode sparse_granularity",
    v2.LinearPruner: "model config_list pruning_algorithm total_iteration log_dir keep_intermediate_result evaluator "
    "speedup pruning_params",
    v2.AGPPruner: "model config_list pruning_algorithm total_iteration log_dir keep_intermediate_result evaluator "
    "speedup pruning_params",
    v2.LotteryTicketPruner: "model config_list pruning_algorithm total_iteration log_dir keep_intermediate_result "
    "evaluator speedup reset_weight pruning_params",
    v2.SimulatedAnnealingPruner: "model config_list evaluator start_temperature stop_temperature cool_down_rate "
    "perturbation_magnitude pruning_algorithm pruning_params log_dir keep_intermediate_result speedup",
    v2.AutoCompressPruner: "model config_list total_iteration admm_params sa_params log_dir keep_intermediate_result "
    "evaluator speedup",
    v2.AMCPruner: "total_episode model config_list evaluator pruning_algorithm log_dir keep_intermediate_result "
    "ddpg_params pruning_params target",
    v3.LevelPruner: "model config_list evaluator existed_wrappers",
    v3.L1NormPruner: "model config_list evaluator existed_wrappers",
    v3.L2NormPruner: "model config_list evaluator existed_wrappers",
    v3.FPGMPruner: "model config_list evaluator existed_wrappers",
    v3.TaylorPruner: "model config_list evaluator training_steps existed_wrappers",
    v3.SlimPruner: "model config_list evaluator training_steps regular_scale existed_wrappers",
    v3.MovementPruner: "model config_list evaluator warmup_step cooldown_begin_step regular_scale existed_wrappers",
    v3.LinearPruner: "pruner interval_steps total_times evaluator",
    v3.AGPPruner: "pruner interval_steps total_times evaluator",
    v2.TorchEvaluator: "training_func optimizers criterion lr_schedulers dummy_input evaluating_func",
    v3.TorchEvaluator: "training_func optimizers training_step lr_schedulers dummy_input evaluating_func",
    facade.LightningEvaluator: "trainer data_module dummy_input",
    facade.TransformersEvaluator: "trainer dummy_input",
    facade.SensitivityAnalysis: "model val_func sparsities prune_type early_stop_mode early_stop_value",
}


@pytest.mark.parametrize("kind", SIGNATURES, ids=lambda kind: f"{kind.__module__.split('.')[3]}.{kind.__name__}")
def test_constructors_take_what_nni_documents(kind):
    names = [name for name in inspect.signature(kind).parameters if name != "seed"]
    assert names == SIGNATURES[kind].split()


@pytest.mark.parametrize("module", [facade, v2, v3], ids=["nni", "v2", "v3"])
def test_every_class_has_a_docstring_of_its_own(module):
    for name in module.__all__:
        assert getattr(module, name).__doc__, name
