"""How much a model's outputs change with one part at another size: what a surrogate of evaluations goes by."""

import logging
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace

import torch
from torch import Tensor, nn

from gracile.graph import eval_mode
from gracile.inputs import Inputs
from gracile.oracle import tensors_in
from gracile.pipeline.candidates import opened_executor
from gracile.pipeline.request import Request
from gracile.pipeline.searchable import Searchable
from gracile.search.dictionary import evaluate_columns
from gracile.search.problem import Column
from gracile.store import Store

log = logging.getLogger(__name__)

# More examples tell little more: layers differ from each other by far more than a layer from example to example.
_EXAMPLES = 12
# What outputs that are no numbers any more count as.
_LOST = 1e3
# How far outputs of a part of a batch may lie from those of the whole batch, relative to the largest.
_ROUNDING = 1e-2


class OutputChange:
    """An evaluation function: minus the squared change of the outputs, relative to their square, on some inputs.

    Of several outputs it is the mean.  Of integers and truth values the share that differs stands for it; so does 1 for
    outputs of another shape.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Inputs]) -> None:
        self._batches = batches
        self._wanted = [_returned(model, batch) for batch in batches]

    def __call__(self, model: nn.Module) -> float:
        pairs = ((wanted, _returned(model, batch)) for batch, wanted in zip(self._batches, self._wanted, strict=True))
        return -_change(pairs)


def output_change(original: nn.Module, model: nn.Module, batches: Iterable[Inputs]) -> float:
    """The squared change of the outputs relative to their square, as `OutputChange`; no outputs are kept."""
    return _change((_returned(original, batch), _returned(model, batch)) for batch in batches)


def changes_of(
    stage: Searchable, request: Request, columns: Sequence[Column], candidates: Sequence[Sequence[int]]
) -> tuple[Column, ...]:
    """The columns with changes of the outputs, with a minus, for scores at all candidates.

    Raises:
        EvaluationError: the model fails on the calibration data, or on the example inputs where there are none.
    """
    change = OutputChange(stage.model, _examples(stage))
    with closing(Store(None)) as store, opened_executor(stage, replace(request, evaluate_search=change)) as executor:
        job = store.job(stage.key, 0.0)
        return evaluate_columns(columns, candidates, executor, job, title="changes of the outputs").columns


def _examples(stage: Searchable) -> list[Inputs]:
    """At most `_EXAMPLES` examples where batches can be parted; of the calibration data, or else those of the graph."""
    chosen: list[Inputs] = []
    left = _EXAMPLES
    for batch in [stage.graph.example] if stage.data is None else stage.data:
        chosen.append(_thinned(stage.model, batch, left))
        left -= chosen[-1].batch_size or 1
        if left <= 0:
            break
    return chosen


def _thinned(model: nn.Module, batch: Inputs, count: int) -> Inputs:
    """``count`` examples of a larger batch; the batch, where the model does not take them or treats them otherwise."""
    size = batch.batch_size or 0
    if size <= count:
        return batch
    places = torch.linspace(0, size - 1, count).round().long()
    fewer = batch.chosen(places)
    try:
        same = all(map(_close, _returned(model, fewer), (leaf[places] for leaf in _returned(model, batch))))
    except Exception as error:
        log.info("the outputs are compared on whole batches: %s", error)
        return batch
    return fewer if same else batch


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(
        one.float(), other.float(), rtol=0, atol=_ROUNDING * float(other.abs().max()) if other.numel() else 0.0
    )


@torch.no_grad()
def _returned(model: nn.Module, batch: Inputs) -> list[Tensor]:
    with eval_mode(model):
        # What a model writes into its inputs must stay in this call, and outputs may be views of them.
        return tensors_in(batch.copied().call(model))


def _change(pairs: Iterable[tuple[list[Tensor], list[Tensor]]]) -> float:
    """The mean over outputs; each pair holds those of one batch, as wanted and as found."""
    rows = [[_moved(leaf, other) for leaf, other in zip(*pair, strict=True)] for pair in pairs]
    # [outputs, 2]
    totals = torch.tensor(rows, dtype=torch.float64).sum(0).reshape(-1, 2)
    shares = (totals[:, 0] / totals[:, 1].clamp(min=1e-30)).nan_to_num(_LOST).clamp(max=_LOST)
    return float(shares.mean()) if len(shares) else 0.0


def _moved(wanted: Tensor, found: Tensor) -> tuple[float, float]:
    """The square of the change of one output, and the output's own."""
    # Masks are infinite in both.
    some = wanted.isfinite()
    own = float(torch.linalg.vector_norm(wanted[some].float())) ** 2 if wanted.is_floating_point() else wanted.numel()
    if wanted.shape != found.shape:
        return max(own, 1.0), max(own, 1.0)
    if not wanted.is_floating_point():
        return float((wanted != found).sum()), float(own)
    return float(torch.linalg.vector_norm((found - wanted)[some].float())) ** 2, own
