"""MACs and parameters of torchvision's models against the figures that torchvision publishes with its weights."""

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import nn

from gracile.cost import profile

if find_spec("torchvision") is None:
    pytest.skip("torchvision is not installed", allow_module_level=True)

from support.torchvision import models

NAMES = """
    alexnet convnext_tiny densenet121 efficientnet_b0 googlenet inception_v3 mnasnet1_0 mobilenet_v2 mobilenet_v3_large
    regnet_y_400mf resnet18 resnet50 resnext50_32x4d shufflenet_v2_x1_0 squeezenet1_1 swin_t vgg16 vit_b_16
""".split()
ARGUMENTS: dict[str, dict[str, Any]] = {
    # The published parameters are those of the network without its auxiliary heads, which only training runs.
    "googlenet": {"aux_logits": False, "init_weights": False},
    "inception_v3": {"init_weights": False},
}


@pytest.fixture(autouse=True)
def _uninitialised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values cost nothing here, and making them takes most of the time."""
    for name in dir(nn.init):
        if name.endswith("_") and not name.startswith("_"):
            monkeypatch.setattr(nn.init, name, lambda tensor, *_args, **_kwargs: tensor)


@pytest.mark.parametrize("name", NAMES)
def test_macs_and_parameters_are_the_published_ones(name: str) -> None:
    weights = models.get_model_weights(name).DEFAULT
    size = weights.transforms.keywords["crop_size"]
    cost = profile(models.get_model(name, weights=None, **ARGUMENTS.get(name, {})), torch.zeros(1, 3, size, size))
    # Published in units of 1e9 MACs, rounded to three decimals.
    assert cost.macs / 1e9 == pytest.approx(weights.meta["_ops"], rel=0.001, abs=0.0006)
    assert cost.params == weights.meta["num_params"]
    assert all(item.known for item in cost.uncounted)
