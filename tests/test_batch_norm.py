"""Batch-norm re-estimation: what changes is taken over, what does not change stays."""

import copy

import pytest
import torch
from nets import SmallNet, images, trained_like
from torch import nn

import gracile
from gracile.batch_norm import reestimate

DATA = [images(32, seed=seed) for seed in (1, 2, 3)]
EXAMPLE = gracile.capture(nn.Identity(), images()).example


def small():
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Dropout(0.5))


def test_an_unchanged_model_stays_as_it_is():
    model = trained_like(SmallNet())
    same = copy.deepcopy(model)
    record = reestimate(model, same, EXAMPLE, DATA)
    assert record.changed == ("block.bn1", "block.bn2")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(same.state_dict()[name], tensor)


def test_statistics_of_the_training_data_become_those_of_the_changed_input():
    original = small().eval()
    data = images(64)
    with torch.no_grad():
        features = original[0](data)
        original[1].running_mean.copy_(features.mean((0, 2, 3)))
        original[1].running_var.copy_(features.var((0, 2, 3), correction=0))
        changed = copy.deepcopy(original)
        changed[0].weight.mul_(2).add_(0.1)
        reestimate(original, changed, EXAMPLE, [data])
        features = changed[0](data)
    torch.testing.assert_close(changed[1].running_mean, features.mean((0, 2, 3)))
    torch.testing.assert_close(changed[1].running_var, features.var((0, 2, 3), correction=0))


def test_what_a_scaled_layer_loses_comes_back_whatever_the_statistics_were():
    original = trained_like(SmallNet()).double()
    changed = copy.deepcopy(original)
    with torch.no_grad():
        changed.block.conv1.weight.mul_(3)
        changed.block.conv2.weight.mul_(0.2)
        batches = [batch.double() for batch in DATA[:1]]
        reestimate(original, changed, EXAMPLE, batches)
        # The variances' small constant in the normalisation is not scaled along.
        torch.testing.assert_close(changed(batches[0]), original(batches[0]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_mode_momentum_and_dropout_are_left_alone(training):
    original, model = small(), small().train(training)
    reestimate(original, model, EXAMPLE, DATA)
    assert model.training is training
    assert model[1].training is training
    assert model[1].momentum == 0.1
    assert not model[1]._forward_pre_hooks
    assert not original[1]._forward_pre_hooks


def test_a_channel_that_was_constant_keeps_its_scale():
    original = small()
    with torch.no_grad():
        original[0].weight[0].zero_()
    model = copy.deepcopy(original)
    reestimate(original, model, EXAMPLE, DATA)
    assert model[1].running_var[0] == original[1].running_var[0]
    assert torch.isfinite(model[1].running_mean).all()


def test_a_failed_reestimation_keeps_the_old_statistics():
    original, model = small(), small()
    mean = model[1].running_mean.clone()

    def broken():
        yield images()
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        reestimate(original, model, EXAMPLE, broken())
    assert torch.equal(model[1].running_mean, mean)
    assert not model[1]._forward_pre_hooks


def test_a_model_without_batch_norms_needs_no_data():
    assert reestimate(nn.Linear(2, 2), nn.Linear(2, 2), EXAMPLE, []).changed == ()
