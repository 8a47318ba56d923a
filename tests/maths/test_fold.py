"""Batch-norms folded by hand, and exactly, into every kind of layer."""

import pytest
import torch
from torch import Tensor, nn

import gracile
from gracile.errors import PlanError
from gracile.graph import capture
from gracile.maths.fold import after_layer, before_layer
from gracile.plan import Plan
from gracile.quant import fold_plan
from gracile.quant_edits import FoldBatchNorm


def test_by_hand() -> None:
    # mean 1, variance 3 + 1, weight 4, bias 5: y = 2 x + 3.
    norm = (torch.tensor([1.0]), torch.tensor([3.0]), torch.tensor([4.0]), torch.tensor([5.0]), 1.0)
    weight, bias = after_layer(torch.tensor([[2.0, 3.0]]), torch.tensor([7.0]), norm)
    assert (weight.tolist(), bias.tolist()) == ([[4, 6]], [17])
    weight, bias = before_layer(torch.tensor([[2.0], [3.0]]), None, norm)
    assert (weight.tolist(), bias.tolist()) == ([[4], [6]], [6, 9])


def layers() -> dict[str, tuple[nn.Module, Tensor]]:
    square = torch.randn(3, 4, 6, 6)
    return {
        "grouped": (nn.Sequential(nn.Conv2d(4, 8, 3, groups=2, bias=False), nn.BatchNorm2d(8)), square),
        "depthwise": (nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, groups=4), nn.BatchNorm2d(8, affine=False)), square),
        "transposed": (nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2, stride=2), nn.BatchNorm2d(6)), square),
        "linear": (nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)), torch.randn(3, 4)),
        "before": (nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2)), square),
        "before linear": (nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 5, bias=False)), torch.randn(3, 4)),
        "both": (nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)), square),
        "1d": (nn.Sequential(nn.Conv1d(4, 6, 3, padding="same"), nn.BatchNorm1d(6)), torch.randn(3, 4, 6)),
        "3d": (nn.Sequential(nn.ConvTranspose3d(4, 6, 3, padding=1), nn.BatchNorm3d(6)), torch.randn(3, 4, 5, 5, 5)),
    }


def randomised(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.weight is not None:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return model.double().eval()


@pytest.mark.parametrize("name", layers())
def test_outputs_stay_in_float64(name: str) -> None:
    model, inputs = layers()[name]
    model, inputs = randomised(model), inputs.double()
    graph = capture(model, inputs)
    plan, left = fold_plan(model, graph)
    assert not left
    folded = gracile.apply(model, plan)
    assert not [module for module in folded.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        wanted = model(inputs)
        assert (folded(inputs) - wanted).abs().max() <= 1e-10 * wanted.abs().max()
        assert not torch.allclose(nn.Sequential(*(m for m in model if "Norm" not in type(m).__name__))(inputs), wanted)
    after = gracile.profile(folded, inputs)
    assert (plan.cost(graph).params, plan.cost(graph).bytes, plan.cost(graph).macs) == (
        after.params, after.bytes, after.macs,
    )  # fmt: skip


class Shared(nn.Module):
    """Layers that cannot be folded, each for another reason."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.twice = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.first, self.second, self.third, self.fourth = (nn.BatchNorm2d(4) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.first(x))
        x = self.second(x) + x
        x = self.third(self.twice(self.twice(x)))
        return self.fourth(x.relu())


def test_what_cannot_be_folded_says_why() -> None:
    model = randomised(Shared())
    plan, left = fold_plan(model, capture(model, torch.randn(2, 4, 5, 5).double()))
    assert not plan.edits
    assert left["first"] == "the convolution behind it pads"
    assert left["third"] == "the tensors of twice are read more than once"
    assert left["second"] == left["fourth"] == "no convolution or linear layer stands alone before or behind it"


def test_edits_that_do_not_fit() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(5), nn.ReLU())
    for module, into, reason in (("1", "0", "5 channels"), ("2", "0", "no batch-norm"), ("1", "2", "no convolution")):
        with pytest.raises(PlanError, match=reason):
            gracile.apply(model, Plan(edits=(FoldBatchNorm(module=module, into=into),)))
