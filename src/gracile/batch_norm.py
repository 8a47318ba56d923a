"""Batch-norm re-estimation: running statistics that fit a model whose other values have changed.

A batch-norm's statistics describe what its input was in training.  After compression the input has another mean and
variance in each channel, and much of the loss comes from that alone.  Measuring the statistics anew on calibration
data would also replace the training data's by the calibration data's; so only the *change* is taken over.  With mean
m and variance v of the input over the calibration data in the original (o) and in the compressed model (c):

    mean_c = m_c + (mean_o - m_o) * sqrt(v_c / v_o),     var_c = var_o * v_c / v_o

which leaves the mean and variance of the normalised values as they were, and an unchanged model unchanged.  Where
training and calibration data agree (mean_o = m_o, var_o = v_o) it is plain re-estimation.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gracile.graph import eval_mode
from gracile.inputs import Inputs, batches_of
from gracile.report import Record

_BatchNorm = nn.modules.batchnorm._BatchNorm


@dataclass(slots=True)
class _Statistics:
    """Per channel, the mean and variance of one input, or of what a batch-norm takes for them."""

    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, data: Tensor) -> "_Statistics":
        axes = [axis for axis in range(data.ndim) if axis != 1]
        variance, mean = torch.var_mean(data.float() if data.dtype.itemsize < 4 else data, axes, correction=0)
        return cls(mean, variance)

    @classmethod
    def noted(cls, module: Any, kept: Any) -> "_Statistics":
        """The running statistics of a batch-norm."""
        return cls(module.running_mean.clone(), module.running_var.clone()).of_channels(kept)

    def of_channels(self, kept: Any) -> "_Statistics":
        if kept is None:
            return self
        chosen = torch.as_tensor(kept, device=self.mean.device)
        return _Statistics(self.mean[chosen], self.variance[chosen])


def batch_norms(model: nn.Module) -> dict[str, Any]:
    """The batch-norm modules of ``model`` that keep running statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    }


@torch.no_grad()
def reestimate(
    original: nn.Module,
    model: nn.Module,
    example: Inputs,
    calibration: Iterable[Any],
    *,
    kept: Mapping[str, Any] | None = None,
    only: Collection[str] | None = None,
) -> Record:
    """Fit the running statistics of every batch-norm of ``model`` to what now comes in; in place.

    Both models run in evaluation mode on each batch; the statistics are averaged over the batches.

    Args:
        original: the model before the change; batch-norms are paired by name.
        kept: batch-norm -> the indices of the original's channels that ``model`` still has; all by default.
        only: the batch-norms to fit; all by default.

    Raises:
        InputError: the calibration data is empty or does not fit the model.
    """
    sources = batch_norms(original)
    pairs = {name: (sources[name], module) for name, module in batch_norms(model).items() if name in sources}
    if only is not None:
        pairs = {name: pair for name, pair in pairs.items() if name in only}
    wanted = {name: _Statistics.noted(source, (kept or {}).get(name)) for name, (source, _) in pairs.items()}
    seen: dict[str, deque[_Statistics]] = defaultdict(deque)
    found: dict[str, list[_Statistics]] = defaultdict(list)
    saved = {name: _Statistics.noted(module, None) for name, (_, module) in pairs.items()}
    handles = [
        handle
        for name, (source, module) in pairs.items()
        for handle in (
            source.register_forward_pre_hook(_remember(seen[name], (kept or {}).get(name))),
            module.register_forward_pre_hook(_follow(wanted[name], seen[name], found[name])),
        )
    ]
    batches = 0
    try:
        with eval_mode(original), eval_mode(model):
            for batch in batches_of(calibration, example) if pairs else ():
                batch.call(original)
                batch.call(model)
                batches += 1
        saved = {name: _average(statistics) for name, statistics in found.items() if statistics}
    finally:
        for handle in handles:
            handle.remove()
        for name, statistics in saved.items():
            _set(pairs[name][1], statistics)
    return Record(name="batch_norm_reestimation", changed=tuple(saved), details={"batches": float(batches)})


def _remember(seen: deque[_Statistics], kept: Any) -> Callable[[nn.Module, Any], None]:
    def hook(_module: nn.Module, args: Any) -> None:
        seen.append(_Statistics.of(args[0]).of_channels(kept))

    return hook


def _follow(
    source: _Statistics, seen: deque[_Statistics], found: list[_Statistics]
) -> Callable[[nn.Module, Any], None]:
    """Normalise each batch by its own matched statistics, so that later batch-norms see what they will see."""

    def hook(module: nn.Module, args: Any) -> None:
        was, now = seen.popleft(), _Statistics.of(args[0])
        tiny = torch.finfo(now.variance.dtype).tiny
        # A channel that was constant keeps its scale.
        ratio = torch.where(was.variance > tiny, now.variance / was.variance.clamp_min(tiny), 1.0)
        matched = _Statistics(
            now.mean + (source.mean - was.mean) * ratio.sqrt(),
            source.variance * ratio,
        )
        found.append(matched)
        _set(module, matched)

    return hook


def _average(statistics: list[_Statistics]) -> _Statistics:
    return _Statistics(
        torch.stack([s.mean for s in statistics]).mean(0), torch.stack([s.variance for s in statistics]).mean(0)
    )


def _set(module: Any, statistics: _Statistics) -> None:
    module.running_mean.copy_(statistics.mean)
    module.running_var.copy_(statistics.variance)
