"""int8 as the last method of `gracile.compress`."""

import copy

import pytest
import torch
from nets import SmallNet, agreement, images, trained_like
from torch import nn

import gracile
from gracile.errors import InputError, TargetError
from gracile.maths.quant_spec import PerChannel, quant_spec
from gracile.plan import Slice
from gracile.quant.trained import TrainedQuantizer
from gracile.quant_edits import FoldBatchNorm, Quantize

torch.manual_seed(0)
MODEL = trained_like(SmallNet(8))
DATA = images(16, seed=3)
CALIBRATION = [images(8, seed=seed) for seed in (10, 11)]


def job(method, **options):
    arguments = {"round_to": 1, "calibration": CALIBRATION, "criterion": "l2"}
    return gracile.compress(MODEL, DATA[:2], evaluate=agreement(MODEL, DATA), method=method, **arguments | options)


@pytest.fixture(scope="module")
def pruned() -> gracile.Result:
    return job("prune+int8", target=gracile.Target(macs=0.6))


def test_bytes_of_quantized_weights_are_those_of_their_integers():
    graph = gracile.capture(nn.Linear(6, 4), torch.zeros(2, 6))
    per_row = Quantize(
        name="w", role="weight", sites=("weight",), spec=quant_spec("int4", granularity=PerChannel()), shape=(4,)
    )
    values = Quantize(name="a", role="activation", sites=("input",), spec=quant_spec("uint8"))
    # 24 weights of half a byte, 4 scales of 4 bytes with zero points of half a byte, 4 biases; and one pair of 4 + 1.
    assert gracile.Plan(edits=(per_row, values)).cost(graph).bytes == 12 + 4 * 4 + 2 + 4 * 4 + 5
    assert gracile.Plan(edits=(per_row, values)).cost(graph).macs == 24


def test_a_cost_survives_edits_between_and_behind_slices():
    graph = gracile.capture(MODEL, DATA[:2])
    plan = gracile.prune.plan(MODEL, graph, sparsity=0.5, round_to=1)
    small = gracile.apply(MODEL, plan)
    assert any(isinstance(edit, Slice) for edit in plan.edits)
    simulation = gracile.quantize(small, DATA[:2], weights="int8", activations=None)
    whole = gracile.applied_plan(simulation)
    assert any(isinstance(edit, FoldBatchNorm) for edit in whole.edits)
    assert whole.cost(graph).macs == plan.cost(graph).macs == gracile.profile(small, DATA[:2]).macs


def test_a_cost_survives_slices_in_two_places():
    graph = gracile.capture(MODEL, DATA[:2])
    model = gracile.apply(MODEL, gracile.prune.plan(MODEL, graph, sparsity=0.25, round_to=1))
    model = gracile.apply(model, gracile.lowrank.plan(model, DATA[:2], method="spatial_svd", cost_ratio=0.7))
    model = gracile.apply(model, gracile.prune.plan(model, DATA[:2], sparsity=0.25, round_to=1))
    told, found = gracile.applied_plan(model).cost(graph), gracile.profile(model, DATA[:2])
    assert (told.macs, told.params, told.bytes) == (found.macs, found.params, found.bytes)


def test_int8_alone_needs_no_target_and_reports_every_layer():
    result = job("int8")
    assert isinstance(result.model, gracile.quant.Simulation)
    report = result.report
    assert report.after.macs == report.before.macs
    assert report.after.bytes < 0.4 * report.before.bytes
    weighted = {layer.name for layer in report.layers if layer.after is not None}
    assert weighted == {name for name, module in MODEL.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    assert report.stages[-1].score_after == report.score_after
    assert [record.name for record in report.passes] == ["weight_ranges", "calibration"]
    assert "int8, to 100.0% of the MACs" in str(report)
    found = report.quantization
    simulation = result.model
    assert [item.name for item in found.quantizers] == list(simulation.named_quantizers())
    weights = {item.name: item for item in found.quantizers if item.role == "weight"}
    for name, item in weights.items():
        tensor = dict(simulation.named_parameters())[simulation.sites[name][0]].detach()
        assert sum(item.counts) == tensor.numel()
        assert item.smallest == pytest.approx(float(tensor.min()))
        assert item.largest == pytest.approx(float(tensor.max()))
        assert item.outside == 0
        # All lies between the lowest and the highest level.
        assert sum(item.counts[10:50]) == tensor.numel()
    errors = gracile.quant.layer_errors(simulation, CALIBRATION, DATA[:2])
    assert {layer.name: layer.sqnr for layer in found.layers} == pytest.approx(dict(errors.sqnr))
    assert found.examples == 16


def test_what_is_excluded_stays_and_says_so():
    result = job("int8", exclude=["head"])
    rows = {layer.name: layer for layer in result.report.layers}
    assert "head" not in rows
    assert "excluded" in rows["linear"].reason
    assert not [edit for edit in result.plan.edits if isinstance(edit, Quantize) and "head.weight" in edit.sites]


def test_batch_norms_that_stay_are_listed():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    result = gracile.compress(model, DATA[:2], evaluate=agreement(model, DATA), method="int8", calibration=CALIBRATION)
    assert "not folded" in {layer.name: layer for layer in result.report.layers}["2"].reason


def test_methods_before_reach_a_target_in_macs(pruned):
    assert pruned.report.after.macs <= 0.6 * pruned.report.before.macs
    assert [stage.method for stage in pruned.report.stages] == ["prune", "int8"]
    assert pruned.report.after.bytes == pruned.plan.cost(gracile.capture(MODEL, DATA[:2])).bytes


def test_the_result_loads_bit_for_bit(pruned, tmp_path):
    pruned.save(tmp_path / "small")
    again = gracile.load(tmp_path / "small", SmallNet(8))
    assert torch.equal(again.eval()(DATA), pruned.model.eval()(DATA))
    assert gracile.applied_plan(again) == pruned.plan


def test_the_result_becomes_a_file_of_integers(pruned, tmp_path):
    pytest.importorskip("onnxruntime")
    written = pruned.to_onnx(tmp_path / "small.onnx")
    assert written.steps is not None
    assert written.steps <= 1


def test_a_target_in_bytes_counts_integers():
    result = job("prune+int8", target=gracile.Target(bytes=0.2))
    assert 0.15 * result.report.before.bytes < result.report.after.bytes <= 0.2 * result.report.before.bytes
    assert [stage.method for stage in result.report.stages] == ["prune", "int8"]


def test_where_int8_is_enough_nothing_else_is_done():
    result = job("prune+int8", target=gracile.Target(bytes=0.6))
    assert [stage.method for stage in result.report.stages] == ["int8"]
    assert any("int8 alone reaches the target" in note for note in result.report.notes)


def test_weights_of_four_bits_take_half_of_what_eight_take(tmp_path):
    four, eight = job("int4"), job("int8")
    specs = {item.spec.name for item in four.model.named_quantizers("weight").values()}
    assert specs == {"int4"}
    assert {item.spec.name for item in four.model.named_quantizers("activation").values()} == {"uint8"}
    weights = sum(module.weight.numel() for module in MODEL.modules() if isinstance(module, nn.Conv2d | nn.Linear))
    # A zero point beside each scale takes half a byte less, too.
    saved = eight.report.after.bytes - four.report.after.bytes
    assert weights / 2 <= saved < 0.55 * weights + 8
    assert four.report.stages[-1].method == "int4"
    both = job("prune+int4", target=gracile.Target(bytes=0.2))
    assert both.report.after.bytes <= 0.2 * both.report.before.bytes
    with torch.no_grad():
        assert torch.equal(gracile.load(both.save(tmp_path / "saved"), MODEL)(DATA), both.model(DATA))


def test_three_methods_are_one_plan_that_loads_on_a_fresh_model(tmp_path):
    result = job("spatial_svd+channel_pruning+int8", target=gracile.Target(macs=0.5), search="tar")
    assert [stage.method for stage in result.report.stages] == ["spatial_svd", "channel_pruning", "int8"]
    assert result.report.after.macs <= 0.5 * result.report.before.macs
    graph = gracile.capture(MODEL, DATA[:2])
    again = gracile.Plan.from_json(result.plan.to_json())
    assert again == result.plan
    assert (again.cost(graph).macs, again.cost(graph).bytes) == (result.report.after.macs, result.report.after.bytes)
    torch.manual_seed(5)
    fresh = gracile.load(result.save(tmp_path / "saved"), SmallNet(8))
    with torch.no_grad():
        assert torch.equal(fresh(DATA), result.model(DATA))


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.usefixtures("without_onednn")
def test_fine_tuning_trains_with_the_quantizers(copied):
    seen = []

    def tune(model):
        seen.append(any(isinstance(module, TrainedQuantizer) for module in model.modules()))
        trained = copy.deepcopy(model) if copied else model
        trained.train()
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.01)
        trained(DATA).square().mean().backward()
        optimizer.step()
        return trained

    result = job("prune+int8", target=gracile.Target(macs=0.6), fine_tune=tune)
    assert seen == [False, True]
    assert result.report.score_fine_tuned != result.report.score_after
    for name, item in result.model.named_quantizers("weight").items():
        assert not isinstance(item, TrainedQuantizer)
        [site] = result.model.sites[name]
        largest = result.model.get_parameter(site).detach().flatten(1).abs().amax(1)
        assert torch.allclose(item.scale.flatten(), largest / 127)


def test_what_cannot_be_is_refused_before_any_work():
    with pytest.raises(InputError, match="int8 needs calibration"):
        job("int8", calibration=None)
    with pytest.raises(InputError, match="int8 comes last"):
        job("int8+prune", target=gracile.Target(macs=0.5))
    with pytest.raises(InputError, match="leave the target out"):
        job("int8", target=gracile.Target(macs=0.5))
    with pytest.raises(InputError, match="integers, which run in onnxruntime; runtime is 'eager'"):
        job("prune+int8", target=gracile.Target(latency=0.5, runtime="eager"))
    with pytest.raises(InputError, match="give a target"):
        job("prune+int8")
    with pytest.raises(TargetError, match="by int8 alone"):
        job("int8", target=gracile.Target(bytes=0.1))
