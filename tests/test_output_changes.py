"""Changes of outputs, by hand and through `compress`."""

import copy

import pytest
import torch
from nets import SmallNet, agreement, trained_like
from torch import nn

import gracile
from gracile.inputs import Inputs
from gracile.pipeline.output_changes import OutputChange, output_change
from gracile.search.dictionary import noise_of
from gracile.search.problem import Column

DATA = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Fixed(nn.Module):
    """Returns what it is told to, whatever it is asked."""

    def __init__(self, *outputs):
        super().__init__()
        self.outputs = outputs

    def forward(self, x):
        return self.outputs


def between(wanted, found, batches=1):
    some = [Inputs.of(torch.zeros(2, 3))] * batches
    change = output_change(Fixed(*wanted), Fixed(*found), some)
    assert OutputChange(Fixed(*wanted), some)(Fixed(*found)) == -change
    return change


def test_the_change_is_that_of_squares_relative_to_the_outputs_own():
    wanted = torch.tensor([[3.0, 4.0]])
    assert between([wanted], [wanted]) == 0
    assert between([wanted], [torch.tensor([[3.0, 3.0]])]) == pytest.approx(1 / 25)
    # The mean over outputs, of whatever size; over batches the sums.
    assert between([wanted, 100 * wanted], [wanted, torch.zeros(1, 2)], batches=3) == pytest.approx(0.5)


def test_outputs_that_are_no_real_numbers():
    assert between([torch.tensor([1, 2, 3, 4])], [torch.tensor([1, 2, 3, 5])]) == pytest.approx(0.25)
    assert between([torch.tensor([True, False])], [torch.tensor([False, True])]) == 1
    assert between([torch.tensor([3.0 + 4.0j])], [torch.tensor([3.0 + 3.0j])]) == pytest.approx(1 / 25)


def test_outputs_that_cannot_be_compared_count_as_lost():
    # Of another shape.
    assert between([torch.ones(3)], [torch.ones(2)]) == 1
    masked = torch.tensor([3.0, 4.0, -torch.inf])
    assert between([masked], [torch.tensor([3.0, 3.0, -torch.inf])]) == pytest.approx(1 / 25)
    for broken in (torch.nan, torch.inf):
        assert 100 < between([torch.ones(2)], [torch.tensor([1.0, broken])]) < 1e6


def job(model=None, **options):
    model = trained_like(SmallNet()) if model is None else model
    asked = []
    near = agreement(copy.deepcopy(model), DATA)

    def evaluate(candidate):
        asked.append(1)
        return near(candidate)

    result = gracile.compress(
        model, options.pop("example", DATA[:4]), evaluate=evaluate, target=gracile.Target(macs=0.6),
        search=gracile.Search(surrogate="auto"), **options,
    )  # fmt: skip
    return result, len(asked)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("method", ["spatial_svd", "channel_pruning"])
def test_few_evaluations_fill_the_dictionary(method):
    result, asked = job(method=method, calibration=[DATA])
    stage = result.report.stages[0].dictionary
    entries = result.report.dictionary
    assert stage.evaluated == sum(not entry.predicted for entry in entries) <= 4
    assert stage.predicted == len(entries) - stage.evaluated
    assert stage.prediction_error is not None
    if method == "spatial_svd":
        # The original and the final model.
        assert asked == stage.evaluated + 2
    assert "; none was" not in " ".join(result.report.notes)
    assert result.report.after.macs <= 0.6 * result.report.before.macs


def test_the_same_in_worker_processes():
    model = trained_like(SmallNet())
    alone, several = (job(copy.deepcopy(model), method="spatial_svd", n_jobs=jobs)[0] for jobs in (1, 2))
    assert alone.plan.to_json() == several.plan.to_json()


class Sizes(list):
    """A list that copies of a model share."""

    def __deepcopy__(self, memo):
        return self


class Counting(nn.Module):
    """Notes the sizes of the batches that it is called with; with ``mixing`` examples depend on one another."""

    def __init__(self, *, mixing):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)
        self.mixing = mixing
        self.sizes = Sizes()

    def forward(self, x):
        if not torch.compiler.is_compiling():
            self.sizes.append(len(x))
        found = self.second(self.first(x).relu()).mean((2, 3))
        return found - found.mean(0) if self.mixing else found


@pytest.mark.parametrize(("mixing", "size"), [(False, 12), (True, 40)])
def test_a_dozen_examples_do_where_they_do_not_depend_on_one_another(mixing, size):
    model = Counting(mixing=mixing).eval()
    result, _ = job(model, method="spatial_svd", example=DATA[:30], calibration=[DATA])
    entries = len(result.report.dictionary)
    assert model.sizes.count(size) >= entries + 1


def test_a_dictionary_of_noise_is_named():
    def column(scores):
        places = range(len(scores))
        sizes = torch.arange(len(scores) + 1).numpy()
        return Column(
            layer="a", sizes=sizes, costs=sizes, residuals=sizes, evaluated=tuple(places), scores=scores, baseline=90.0
        )

    assert noise_of([column((80.0, 89.0, 90.0)), column((91.0, *[85.0] * 6))]) == ()
    (note,) = noise_of([column((80.0, 91.0, 90.0))])
    assert "1 of 3 scores" in note
    assert 'surrogate="auto"' in note
