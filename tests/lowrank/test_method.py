"""Activation-aware factors: statistics, mean errors, trials, refits."""

import copy

import pytest
import torch
from nets import SmallNet, agreement, images, trained_like
from torch import nn
from torch.nn import functional as F

import gracile
from gracile.inputs import Calibration
from gracile.lowrank import method
from gracile.lowrank.layers import find_layers
from gracile.lowrank.method import LowRank
from gracile.lowrank.moments import collect
from gracile.lowrank.refit import refit_factors
from gracile.plan import AddBias, Plan


def prepared(scheme="spatial_svd", count=48, model=None):
    model = model or trained_like(SmallNet())
    data = [images(16, seed=seed) for seed in range(count // 16)]
    graph = gracile.capture(model, data[0])
    layers = find_layers(model, graph, scheme, calibrated=True).layers
    calibration = Calibration(data, graph.example)
    moments, examples = collect(model, graph, layers, calibration)
    assert examples == count
    return model, graph, layers, moments, calibration


def test_channel_moments_are_those_of_all_inputs():
    _, _, _, moments, calibration = prepared("weight_svd")
    inputs = torch.cat([batch.args[0] for batch in calibration]).double()
    rows = inputs.movedim(1, -1).reshape(-1, 3)
    torch.testing.assert_close(moments["stem"].covariance, torch.cov(rows.T, correction=0), rtol=1e-4, atol=1e-6)
    patches = F.unfold(inputs, 3, padding=1)
    torch.testing.assert_close(moments["stem"].mean.flatten(), patches.mean((0, 2)), rtol=1e-4, atol=1e-6)


def test_vertical_moments_follow_stride_and_padding():
    model, _, _, moments, calibration = prepared("spatial_svd")
    with torch.no_grad():
        inputs = torch.cat([torch.relu(model.stem(batch.args[0])) for batch in calibration]).double()
    rows = F.unfold(inputs, (3, 1), padding=(1, 0), stride=(2, 1)).transpose(1, 2).reshape(-1, 36)
    torch.testing.assert_close(moments["block.conv1"].covariance, torch.cov(rows.T, correction=0), rtol=1e-4, atol=1e-6)


def test_moments_see_the_padding_mode_of_the_module():
    _, _, _, moments, calibration = prepared("spatial_svd")
    model = trained_like(SmallNet())
    padded = []
    model.wide.register_forward_pre_hook(lambda _, args: padded.append(F.pad(args[0], (2, 2, 1, 1), mode="reflect")))
    with torch.no_grad():
        for batch in calibration:
            model(batch.args[0])
    mean = F.unfold(torch.cat(padded).double(), (3, 5)).mean((0, 2))
    torch.manual_seed(0)
    assert moments["wide"].mean.flatten().shape == mean.shape


@pytest.mark.parametrize("scheme", ["weight_svd", "spatial_svd"])
def test_the_correction_takes_the_mean_error_away(scheme):
    model, _, layers, moments, calibration = prepared(scheme)
    lowrank = LowRank(model, gracile.capture(model, images()), layers, moments)
    layer = "stem"
    with torch.no_grad():
        inputs = torch.cat([batch.args[0] for batch in calibration])
        wanted = model.stem(inputs).mean((0, 2, 3))
        with lowrank.trial(layer, 1) as trial:
            found = trial.stem(inputs).mean((0, 2, 3))
            uncorrected = found - trial.stem[1].bias + model_bias(lowrank, layer)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert (uncorrected - wanted).abs().max() > 1e-3


def model_bias(lowrank, layer):
    return dict(lowrank.model.named_parameters()).get(f"{layer}.bias", lowrank.model.stem[1].bias * 0)


@pytest.mark.parametrize("scheme", ["weight_svd", "spatial_svd"])
def test_aware_factors_lose_less_than_plain_ones(scheme):
    model, graph, layers, moments, _ = prepared(scheme)
    fresh = images(64, seed=99)
    evaluate = agreement(model, fresh)
    for layer in layers:
        scores = []
        for statistics in (moments, None):
            with torch.no_grad(), LowRank(model, graph, layers, statistics).trial(layer.name, 2) as trial:
                scores.append(evaluate(trial))
        assert scores[0] > scores[1], layer.name


def test_a_trial_leaves_no_trace():
    model, graph, layers, moments, _ = prepared()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modules = dict(model.named_modules())
    lowrank = LowRank(model, graph, layers, moments)
    for layer in layers:
        with lowrank.trial(layer.name, 1):
            pass
    assert dict(model.named_modules()) == modules
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_each_layer_is_decomposed_once(monkeypatch):
    model, graph, layers, moments, _ = prepared()
    calls = []
    original = method.decompose
    monkeypatch.setattr(method, "decompose", lambda *a, **k: calls.append(1) or original(*a, **k))
    lowrank = LowRank(model, graph, layers, moments)
    for rank in (1, 2, 3):
        for layer in layers:
            with lowrank.trial(layer.name, rank):
                pass
    assert len(calls) == len(layers)


def test_a_bias_is_added_only_where_no_batch_norm_takes_the_mean_error():
    model = trained_like(SmallNet())
    model.block.shortcut = nn.Conv2d(12, 12, 1, 2, bias=False)
    model, graph, layers, moments, _ = prepared(model=model)
    lowrank = LowRank(model, graph, layers, moments)
    edits = {layer.name: lowrank.change(layer.name, 2, final=True).edits for layer in layers}
    added = {name: AddBias(module=name) in found for name, found in edits.items()}
    assert added == {
        "stem": False, "block.conv1": False, "block.conv2": False, "block.shortcut": True, "wide": False,
    }  # fmt: skip
    priced = {layer.name: layer for layer in layers}["block.shortcut"]
    assert priced.cost(2, "params") == 2 * 24 + 12


@pytest.mark.parametrize("scheme", ["weight_svd", "spatial_svd"])
def test_refits_bring_the_model_nearer_to_the_original(scheme):
    model, graph, layers, moments, calibration = prepared(scheme, count=96)
    lowrank = LowRank(model, graph, layers, moments)
    small = copy.deepcopy(model)
    for layer in layers:
        change = lowrank.change(layer.name, 3, final=True)
        small = gracile.apply(small, Plan(edits=change.edits), inplace=True, values=change.values)
    evaluate = agreement(model, images(64, seed=99))
    with torch.no_grad():
        before = evaluate(small)
        _, record = refit_factors(model, graph, small, layers, calibration)
        after = evaluate(small)
    assert after > before
    assert record.changed[0] == "stem.1"
    assert gracile.applied_plan(small).cost(graph).params == sum(p.numel() for p in small.parameters())


def test_a_refit_at_full_rank_changes_nothing():
    model, graph, layers, moments, calibration = prepared("weight_svd")
    (layer,) = [layer for layer in layers if layer.name == "head"]
    change = LowRank(model, graph, layers, moments).change("head", layer.max_rank, final=True)
    small = gracile.apply(model, Plan(edits=change.edits), values=change.values)
    refit_factors(model, graph, small, [layer], calibration)
    data = images(8, seed=5)
    torch.testing.assert_close(small(data), model(data), rtol=1e-4, atol=1e-5)
