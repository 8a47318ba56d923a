"""The course of NNI's quick start and speedup tutorials, both generations, with the import changed."""

import copy

import torch
from nni_toys import IMAGES, LABELS, by_criterion
from torch import nn
from torch.nn import functional as F

import gracile.compat.nni as nni
from gracile.compat.nni.compression import pruning as pruning3
from gracile.compat.nni.compression.pytorch import pruning as pruning2
from gracile.compat.nni.compression.pytorch.speedup.v2 import ModelSpeedup as ModelSpeedup2
from gracile.compat.nni.compression.pytorch.utils.counter import count_flops_params
from gracile.compat.nni.compression.speedup import ModelSpeedup
from gracile.compat.nni.compression.utils import TorchEvaluator, auto_set_denpendency_group_ids


class Lenet(nn.Module):
    """A network such as the tutorials prune, on 8 x 8 images."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 16, 3)
        self.fc1 = nn.Linear(16 * 9, 40)
        self.fc2 = nn.Linear(40, 20)
        self.fc3 = nn.Linear(20, 4)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        return F.log_softmax(self.fc3(F.relu(self.fc2(x))), dim=1)


def pretrained():
    torch.manual_seed(0)
    model = Lenet()
    by_criterion(model, torch.optim.Adam(model.parameters(), 1e-2), F.nll_loss, None, 40)
    return model


def loss_of(model):
    with torch.no_grad():
        return float(F.nll_loss(model(IMAGES), LABELS))


def test_quick_start_of_nni_3():
    model = pretrained()
    config_list = [{"op_types": ["Linear", "Conv2d"], "exclude_op_names": ["fc3"], "sparse_ratio": 0.5}]
    pruner = pruning3.L1NormPruner(model, config_list)
    _, masks = pruner.compress()
    sparsities = {name: f"{mask['weight'].sum() / mask['weight'].numel():.2}" for name, mask in masks.items()}
    assert sparsities == dict.fromkeys(("conv1", "conv2", "fc1", "fc2"), "0.5")
    masked = model(IMAGES)
    pruner.unwrap_model()
    ModelSpeedup(model, torch.rand(3, 1, 8, 8), masks).speedup_model()
    assert [tuple(layer.weight.shape[:2]) for layer in (model.conv1, model.conv2, model.fc1, model.fc2, model.fc3)] == [
        (3, 1), (8, 3), (20, 72), (10, 20), (4, 10),
    ]  # fmt: skip
    # Masked outputs lose their biases, too: nothing is left behind by what was cut.
    assert torch.allclose(model(IMAGES), masked, atol=1e-5)
    before = loss_of(model)
    by_criterion(model, torch.optim.Adam(model.parameters(), 1e-2), F.nll_loss, None, 20)
    assert loss_of(model) < before


def test_quick_start_of_nni_2():
    model = pretrained()
    config_list = [
        {"sparsity_per_layer": 0.5, "op_types": ["Linear", "Conv2d"]},
        {"exclude": True, "op_names": ["fc3"]},
    ]
    pruner = pruning2.L1NormPruner(model, config_list)
    _, masks = pruner.compress()
    assert all(float(mask["weight"].mean()) == 0.5 for mask in masks.values())
    pruner._unwrap_model()
    ModelSpeedup2(model, torch.rand(3, 1, 8, 8), masks).speedup_model()
    assert (model.conv2.in_channels, model.fc1.in_features, model.fc3.in_features) == (3, 72, 10)
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    by_criterion(model, optimizer, F.nll_loss, None, 4)


def test_speedup_with_a_file_and_a_count(tmp_path):
    model = pretrained()
    dense, _, _ = count_flops_params(model, torch.rand(1, 1, 8, 8), verbose=False)
    pruner = pruning2.L1NormPruner(model, [{"op_types": ["Conv2d"], "sparsity": 0.5}])
    pruner.compress()
    pruner.export_model(model_path=str(tmp_path / "model.pth"), mask_path=str(tmp_path / "mask.pth"))
    fresh = Lenet()
    fresh.load_state_dict(torch.load(tmp_path / "model.pth", weights_only=True))
    ModelSpeedup2(fresh, torch.rand(4, 1, 8, 8), str(tmp_path / "mask.pth"), torch.device("cpu")).speedup_model()
    small, _, _ = count_flops_params(fresh, torch.rand(1, 1, 8, 8), verbose=False)
    assert small < 0.5 * dense


def test_dependencies_are_set_and_the_model_speeds_up():
    model = pretrained()
    dummy_input = torch.rand(8, 1, 8, 8)
    config_list = [{"op_types": ["Conv2d"], "sparse_ratio": 0.5}]
    config_list = auto_set_denpendency_group_ids(model, config_list, dummy_input)

    def training_step(batch, model):
        return F.nll_loss(model(batch[0]), batch[1])

    def training_func(model, optimizers, training_step, lr_schedulers=None, max_steps=None, max_epochs=None):
        model.train()
        for _ in range(max_steps):
            optimizers.zero_grad()
            training_step((IMAGES, LABELS), model).backward()
            optimizers.step()

    optimizer = nni.trace(torch.optim.Adam)(model.parameters(), lr=1e-3)
    evaluator = TorchEvaluator(training_func, optimizer, training_step, dummy_input=dummy_input)
    pruner = pruning3.TaylorPruner(model, config_list, evaluator, training_steps=4)
    _, masks = pruner.compress()
    pruner.unwrap_model()
    small = ModelSpeedup(copy.deepcopy(model), dummy_input, masks).speedup_model()
    assert (small.conv1.out_channels, small.conv2.out_channels) == (3, 8)
    assert model.conv1.out_channels == 6
