"""NNI 2 before 2.9: trainer, optimizer and criterion apart, finetuner and evaluator as functions of the model."""

import pytest
import torch
from nni_toys import IMAGES, LABELS, accuracy, evaluator2, network, shares
from torch.nn import functional as F

from gracile.compat.nni import trace, v2
from gracile.errors import InputError

CONVS = [{"op_types": ["Conv2d"], "sparsity": 0.5}]


def epoch(model, optimizer, criterion):
    """Four batches of eight."""
    model.train()
    for images, labels in zip(IMAGES.split(8), LABELS.split(8), strict=True):
        optimizer.zero_grad()
        criterion(model(images), labels).backward()
        optimizer.step()


@pytest.mark.parametrize("by_name", [False, True])
def test_training_stops_after_so_many_batches(by_name):
    model = network()
    steps = []
    optimizer = trace(torch.optim.SGD)(model.parameters(), lr=0.05)
    optimizer.register_step_post_hook(lambda *_: steps.append(None))
    if by_name:
        given = {"trainer": epoch, "traced_optimizer": optimizer, "criterion": F.cross_entropy, "training_batches": 6}
        pruner = v2.TaylorFOWeightPruner(model, CONVS, **given)
    else:
        pruner = v2.ActivationAPoZRankPruner(model, CONVS, epoch, optimizer, F.cross_entropy, 6)
    _, masks = pruner.compress()
    assert shares(masks) == {"conv1": 0.5, "conv2": 0.5}
    assert len(steps) == 6


def test_epochs():
    model = network()
    steps = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    optimizer.register_step_post_hook(lambda *_: steps.append(None))
    entry = [{"op_types": ["BatchNorm2d"], "total_sparsity": 0.5}]
    _, masks = v2.SlimPruner(model, entry, epoch, optimizer, F.cross_entropy, 3).compress()
    assert shares(masks) == {"bn": 0.5}
    assert len(steps) == 12


def test_a_trainer_that_never_steps_ends():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with pytest.raises(InputError, match="training showed nothing"):
        v2.TaylorFOWeightPruner(model, CONVS, lambda *_: None, optimizer, F.cross_entropy, 6).compress()


def test_rounds_with_functions():
    tuned = []

    def finetuner(model):
        tuned.append(float((model.conv1.weight == 0).float().mean()))

    pruner = v2.LinearPruner(
        network(), CONVS, "l1", 2, finetuner=finetuner, evaluator=accuracy, dummy_input=IMAGES[:1], speedup=False
    )
    pruner.compress()
    assert tuned == [0.0, 0.25, 0.5]
    assert pruner.get_best_result().score == accuracy(pruner.get_best_result().compact_model)


def test_rounds_whose_pruner_trains():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    parameters = {"trainer": epoch, "traced_optimizer": optimizer, "criterion": F.cross_entropy, "training_batches": 2}
    pruner = v2.AGPPruner(model, CONVS, "taylorfo", 2, dummy_input=IMAGES[:1], speedup=True, pruning_params=parameters)
    small, _ = pruner.compress()
    assert (small.conv1.out_channels, small.conv2.out_channels) == (4, 4)
    assert optimizer.param_groups[0]["params"][0] is model.conv1.weight


def test_annealing_with_a_function():
    entry = [{"op_types": ["Conv2d"], "total_sparsity": 0.5}]
    pruner = v2.SimulatedAnnealingPruner(network(), entry, accuracy, pruning_algorithm="l1", cool_down_rate=0.6)
    _, masks = pruner.compress()
    assert sum(int((mask["weight"] == 0).sum()) for mask in masks.values()) >= 324


def test_mistakes():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with pytest.raises(InputError, match="go together, and criterion is missing"):
        v2.TaylorFOWeightPruner(model, CONVS, trainer=epoch, traced_optimizer=optimizer, training_steps=2)
    with pytest.raises(InputError, match="evaluator and trainer say the same thing twice"):
        v2.TaylorFOWeightPruner(
            model, CONVS, evaluator=evaluator2(model), trainer=epoch, traced_optimizer=optimizer,
            criterion=F.cross_entropy, training_steps=2,
        )  # fmt: skip
    with pytest.raises(InputError, match="finetuner and dummy_input belong into the evaluator"):
        v2.LinearPruner(model, CONVS, "l1", 2, evaluator=evaluator2(model), dummy_input=IMAGES)
    with pytest.raises(InputError, match="finetuner is a int; give a function"):
        v2.LinearPruner(model, CONVS, "l1", 2, finetuner=3)
    with pytest.raises(InputError, match="give what stands behind an evaluation function by name"):
        v2.SimulatedAnnealingPruner(model, CONVS, accuracy, 100)
