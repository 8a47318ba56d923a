"""Observers against hand-computed ranges, and the contract that all of them keep."""

import pytest
import torch
from torch import Tensor

from gracile.errors import InputError
from gracile.maths.fake_quant import fake_quantize, from_range
from gracile.maths.histogram import Histogram
from gracile.maths.quant_spec import QuantSpec, quant_spec
from gracile.quant.observers import OBSERVERS, MinMax, MovingAverage, Percentile, observer_maker
from gracile.testing import check_observer

UINT8 = quant_spec("uint8")


@pytest.mark.parametrize("name", OBSERVERS)
def test_all_keep_the_contract(name: str) -> None:
    check_observer(OBSERVERS[name])


class HalfOf:
    """A user's own, in ten lines; wrong where the tests say so."""

    def __init__(self, share: float = 0.5) -> None:
        self.share, self.high = share, torch.zeros(())

    def observe(self, values: Tensor) -> None:
        self.high = torch.maximum(self.high, values.abs().amax(1))

    def range(self, spec: QuantSpec) -> tuple[Tensor, Tensor]:
        return -self.share * self.high, self.share * self.high


def test_the_contract_finds_faults() -> None:
    check_observer(HalfOf)
    with pytest.raises(AssertionError, match="nearly all values out"):
        check_observer(lambda: HalfOf(0.01))
    with pytest.raises(AssertionError, match="far beyond"):
        check_observer(lambda: HalfOf(3.0))
    one = HalfOf()
    with pytest.raises(AssertionError, match="each quantizer needs its own"):
        check_observer(lambda: one)

    class Flat(HalfOf):
        def range(self, spec: QuantSpec) -> tuple[Tensor, Tensor]:
            return tuple(end.max() for end in super().range(spec))

    with pytest.raises(AssertionError, match="has the shape"):
        check_observer(Flat)


def test_minmax_and_moving_average_by_hand() -> None:
    batches = [torch.tensor([[-1.0, 2.0], [0.0, 4.0]]), torch.tensor([[-3.0, 1.0], [1.0, 8.0]])]
    plain, moving = MinMax(), MovingAverage(rate=0.25)
    for batch in batches:
        plain.observe(batch)
        moving.observe(batch)
    assert [end.tolist() for end in plain.range(UINT8)] == [[-3, 0], [2, 8]]
    # -1 + (-3 + 1) / 4 and so on.
    assert [end.tolist() for end in moving.range(UINT8)] == [[-1.5, 0.25], [1.75, 5.0]]


def test_percentile_against_sorted_values() -> None:
    values = torch.randn(1, 100_000)
    observer = Percentile(98.0)
    for part in values.split(30_000, 1):
        observer.observe(part)
    low, high = observer.range(UINT8)
    assert float(low) == pytest.approx(float(values.quantile(0.01)), abs=0.01)
    assert float(high) == pytest.approx(float(values.quantile(0.99)), abs=0.01)
    with pytest.raises(InputError, match="percent is 0"):
        Percentile(0)


def test_a_histogram_that_grows_counts_as_one_that_was_wide() -> None:
    small, large = 0.1 * torch.randn(2, 500), 3 * torch.randn(2, 500)
    grown = Histogram(64)
    grown.add(small)
    grown.add(large)
    assert grown.counts.sum(1).tolist() == [1000, 1000]
    centres, both = grown.centres, torch.cat([small, large], 1)
    half = (centres[:, 1] - centres[:, 0]) / 2
    for row in range(2):
        expected = [
            int(((both[row] >= centre - half[row]) & (both[row] < centre + half[row])).sum()) for centre in centres[row]
        ]
        # Rounding may put a value on a border into the neighbour.
        assert (grown.counts[row] - torch.tensor(expected)).abs().sum() <= 2
    with pytest.raises(InputError, match="infinities or NaN"):
        grown.add(torch.full((2, 3), float("nan")))


@pytest.mark.parametrize("name", ["int4", "uint4"])
def test_mse_beats_every_shrunk_range_on_the_values(name: str) -> None:
    spec = quant_spec(name)
    values = torch.randn(1, 20_000).abs() ** 1.5 if name == "uint4" else torch.randn(1, 20_000)

    def error(low: Tensor, high: Tensor) -> float:
        fake = fake_quantize(values, *(item.squeeze() for item in from_range(low, high, spec)), spec)
        return float((fake - values).square().mean())

    observer = OBSERVERS["mse"]()
    observer.observe(values)
    found = error(*observer.range(spec))
    tried = [error(values.amin(1) * share / 50, values.amax(1) * share / 50) for share in range(1, 51)]
    assert found <= 1.01 * min(tried)
    assert found < 0.8 * tried[-1]


def test_what_clips_less_and_what_clips_outliers() -> None:
    values = torch.cat([torch.randn(1, 50_000), torch.tensor([[60.0]])], 1)
    highest = {}
    for name in ("minmax", "sqnr", "mse", "entropy"):
        observer = OBSERVERS[name]()
        observer.observe(values)
        highest[name] = float(observer.range(quant_spec("int4"))[1])
    assert highest["minmax"] == 60
    assert highest["mse"] < 10
    assert highest["entropy"] < 10
    assert highest["sqnr"] >= highest["mse"]


def test_names_and_makers() -> None:
    assert observer_maker("minmax") is MinMax
    assert observer_maker(HalfOf) is HalfOf
    with pytest.raises(InputError, match="no observer 'max'; there are minmax"):
        observer_maker("max")
    with pytest.raises(InputError, match="check_observer"):
        observer_maker(lambda: 3)
    with pytest.raises(InputError, match="has seen no values"):
        MinMax().range(UINT8)
    with pytest.raises(InputError, match="has seen no values"):
        Percentile().range(UINT8)
