"""The range with the smallest error, against trying them by hand."""

import pytest
import torch

from gracile.errors import InputError
from gracile.maths.gptq import output_error
from gracile.maths.output_range import best_range
from gracile.maths.quant_spec import PerChannel, quant_spec

SPEC = quant_spec("int4", narrow=True, granularity=PerChannel(axis=0))


def test_an_outlier_is_clipped_only_where_it_does_not_matter():
    # Of the channels 7 and 1 and small weights; the second moments tell how much each input matters.
    weight = torch.tensor([[7.0, 0.35, 0.3], [7.0, 0.35, 0.3]])
    second = torch.stack([torch.diag(torch.tensor([1.0, 1.0, 1.0])), torch.diag(torch.tensor([0.0, 1.0, 1.0]))])
    low, high = best_range(weight, SPEC, lambda rounded: output_error(rounded - weight, second), candidates=20)
    assert low.tolist() == [0, 0]
    # The first keeps 7, which costs most; the second takes 1/20, whose step is 0.05, exactly.
    assert high[0] == 7
    assert float(high[1]) == pytest.approx(0.35)


def test_a_single_scale():
    weight = torch.tensor([[3.0, -1.0], [0.5, 0.5]])
    spec = quant_spec("int4", narrow=True)
    low, high = best_range(weight, spec, lambda rounded: (rounded - weight).square().sum().reshape(1), candidates=1)
    assert (low.tolist(), high.tolist()) == ([-1], [3])


def test_errors_of_another_number():
    with pytest.raises(InputError, match="for 2 scales"):
        best_range(torch.ones(2, 2), SPEC, lambda rounded: rounded.sum().reshape(1))
    with pytest.raises(InputError, match="whole number"):
        best_range(torch.ones(2, 2), SPEC, lambda rounded: rounded.sum(1), candidates=0)
