"""A sample of bench/zoo.py that runs in the tests: torchvision's families, at their smallest."""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from support.torchvision import models
from test_cutting import half
from torch import nn
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.maxvit import MaxVit
from torchvision.models.swin_transformer import SwinTransformer, SwinTransformerBlockV2
from torchvision.models.vision_transformer import VisionTransformer

from gracile.channels import channel_groups
from gracile.cutting import cut
from gracile.graph import capture
from gracile.surgery import apply
from gracile.testing import equivalence

_swin = partial(SwinTransformer, [2, 2], 24, [1, 1], [3, 6], [4, 4], num_classes=10)

# Name -> how to make it, the side of its images, and the most parameters that may be left.
FAMILIES: dict[str, tuple[Callable[[], nn.Module], int, float]] = {
    "resnet": (partial(models.resnet18, num_classes=10), 48, 0.3),
    "dense": (partial(models.DenseNet, 8, (3, 3), 16, num_classes=10), 48, 0.35),
    "fire": (partial(models.squeezenet1_1, num_classes=10), 48, 0.35),
    "depthwise_and_excited": (partial(models.mobilenet_v3_small, num_classes=10), 48, 0.4),
    "shuffled": (partial(models.shufflenet_v2_x0_5, num_classes=10), 48, 0.6),
    "grouped": (partial(models.regnet_y_400mf, num_classes=10), 48, 0.35),
    "auxiliary": (partial(models.googlenet, num_classes=10, init_weights=False), 64, 0.35),
    "convnext": (
        partial(models.ConvNeXt, [CNBlockConfig(24, 48, 1), CNBlockConfig(48, None, 1)], num_classes=10), 48, 0.35,
    ),
    "vit": (partial(VisionTransformer, 32, 8, 2, 4, 32, 64, num_classes=10), 32, 0.4),
    "swin": (_swin, 32, 0.4),
    "swin_v2": (partial(_swin, block=SwinTransformerBlockV2), 32, 0.5),
    "maxvit": (partial(MaxVit, (64, 64), 16, 4, [16, 32], [1, 1], 8, 0.0, num_classes=10), 64, 0.5),
}  # fmt: skip


def randomise(model: nn.Module) -> None:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and (tensor.ndim == 1 or not bool(tensor.any())):
            tensor.data.add_(0.3 * torch.randn_like(tensor))
        if name.endswith("running_var"):
            tensor.data.uniform_(0.5, 1.5)


@pytest.mark.parametrize("name", FAMILIES)
def test_half_of_the_channels_of_a_family(name: str) -> None:
    make, side, most = FAMILIES[name]
    model = make().eval()
    randomise(model)
    inputs = torch.randn(2, 3, side, side)
    graph = capture(model, inputs)
    groups = channel_groups(graph)
    found = cut(model, graph, groups, half(groups))
    assert not found.dropped
    shown = equivalence(model, found.plan, inputs)
    assert shown.error <= shown.tolerance
    assert shown.effect > 1e-3
    small = apply(model, found.plan)
    assert sum(p.numel() for p in small.parameters()) < most * sum(p.numel() for p in model.parameters())
    again = copy.deepcopy(small).train()
    result = again(inputs)
    outputs = [item for item in result if item is not None] if isinstance(result, tuple) else [result]
    sum(item.sum() for item in outputs).backward()
    assert all(p.grad is not None for p in again.parameters())
    torch.testing.assert_close(small(torch.cat([inputs, inputs]))[2:], small(inputs), rtol=1e-4, atol=1e-4)
