"""Complex parameters and outputs: what is real in the model is compressed, what cannot be is named before any work."""

import pytest
import torch
from torch import nn

import gracile
from gracile.errors import InputError
from gracile.oracle import largest_difference, outputs_of

X = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))


class Inside(nn.Module):
    """Complex layers between real ones."""

    def __init__(self):
        super().__init__()
        self.waves, self.more = (nn.Linear(8, 8, dtype=torch.complex64) for _ in range(2))
        self.wide, self.head = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x):
        waves = self.more(self.waves(x.to(torch.complex64)))
        return self.head(torch.relu(self.wide(waves.abs())))


class Returned(nn.Module):
    """Complex numbers at the end."""

    def __init__(self):
        super().__init__()
        self.wide, self.head = nn.Linear(8, 32), nn.Linear(32, 4)
        self.phase = nn.Parameter(torch.randn(4, dtype=torch.complex64))

    def forward(self, x):
        return self.head(torch.relu(self.wide(x))) * self.phase


class Only(nn.Module):
    def __init__(self):
        super().__init__()
        self.waves, self.more = nn.Linear(8, 16, dtype=torch.complex64), nn.Linear(16, 4, dtype=torch.complex64)

    def forward(self, x):
        return self.more(self.waves(x.to(torch.complex64))).abs()


def made(kind):
    torch.manual_seed(0)
    return kind().eval()


def compress(model, **options):
    wanted = model(X).detach()
    return gracile.compress(
        model, X, evaluate=lambda small: -float((small(X) - wanted).abs().mean()), calibration=[X],
        **({"method": "prune", "target": gracile.Target(macs=0.75)} | options),
    )  # fmt: skip


@pytest.mark.parametrize("kind", [Inside, Returned])
def test_what_is_real_is_pruned_and_complex_outputs_are_compared(kind):
    model = made(kind)
    plan = gracile.prune.plan(model, X, sparsity=0.5)
    assert {edit.tensor for edit in plan.edits} == {"wide.weight", "wide.bias", "head.weight"}
    result = compress(model)
    assert 0 <= result.report.stages[0].equivalence < 1e-5
    assert gracile.quantize(model, X, calibration=[X])(X).dtype == model(X).dtype


def test_a_wrong_cut_of_a_complex_output_would_be_seen():
    model, other = made(Returned), made(Returned)
    with torch.no_grad():
        other.phase.mul_(1j)
        assert largest_difference(outputs_of(model(X)), outputs_of(other(X))) > 0.01


def test_nothing_but_complex_numbers():
    with pytest.raises(InputError, match="waves: it holds complex numbers, for which there are no scores"):
        compress(made(Only))
    with pytest.raises(InputError, match=r"its weight is torch\.complex64, not floating point"):
        compress(made(Only), method="weight_svd")
    with pytest.raises(InputError, match="nothing is left to quantize"):
        gracile.quantize(made(Only), X, calibration=[X])


def test_complex_numbers_are_not_distilled():
    asked = []
    model = made(Returned)
    with pytest.raises(InputError, match=r"returns complex numbers \(torch.complex64\), and recovery compares logits"):
        gracile.compress(
            model, X, evaluate=lambda small: asked.append(small) or 1.0, calibration=[X], method="prune",
            target=gracile.Target(macs=0.75), recover="distill",
        )  # fmt: skip
    assert not asked
    small = gracile.apply(model, gracile.prune.plan(model, X, sparsity=0.5))
    with pytest.raises(InputError, match="recovery compares logits"):
        gracile.train.recover(small, model, [X])
    with pytest.raises(InputError, match="which are no logits: link layers and set weight=0"):
        gracile.prepare(small, X, gracile.Distillation(model))
    with pytest.raises(InputError, match="'waves' puts out complex numbers"):
        gracile.prepare(made(Inside), X, gracile.Distillation(made(Inside), layers=["waves"]))
    # Blocks that are complex inside are left to the whole.
    small = made(Inside)
    assert gracile.train.recover(small, made(Inside), [X]).details["blocks"] == "wide, head"
