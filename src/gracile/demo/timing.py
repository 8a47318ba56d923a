"""How much faster or slower the demo's compressed network runs."""

import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one model's forward pass / those of another's: median and quartiles over pairs of runs."""

    ratio: float
    low: float
    high: float
    runs: int


@torch.no_grad()
def compare(before: nn.Module, after: nn.Module, images: Tensor, runs: int = 31) -> Timing:
    """Time two models in evaluation mode by turns, so that what else the machine does meets both alike."""
    for model in (before, after):
        _seconds(model, images)
    ratios = []
    for run in range(runs):
        if run % 2:
            first = _seconds(before, images)
            ratios.append(_seconds(after, images) / first)
        else:
            first = _seconds(after, images)
            ratios.append(first / _seconds(before, images))
    low, median, high = statistics.quantiles(ratios, n=4)
    return Timing(ratio=median, low=low, high=high, runs=runs)


def _seconds(model: nn.Module, images: Tensor) -> float:
    start = time.perf_counter()
    model(images)
    return time.perf_counter() - start
