"""Batch-norm re-estimation: running statistics measured anew on calibration data, after other values changed."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from gracile.graph import eval_mode
from gracile.inputs import Inputs, batches_of
from gracile.report import Record

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def normalisations(model: nn.Module) -> dict[str, nn.Module]:
    """The batch-norm modules of ``model`` that keep running statistics."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BATCH_NORMS) and module.track_running_stats
    }


@torch.no_grad()
def reestimate(model: nn.Module, example: Inputs, calibration: Iterable[Any]) -> Record:
    """Replace the running mean and variance of every batch-norm by their averages over ``calibration``.

    Only the batch-norms run in training mode, so dropout stays off; mode and momentum are as before afterwards.
    In place.  As torch does, each batch counts the same and variances are the unbiased ones.

    Raises:
        InputError: the calibration data is empty or does not fit the model.

    """
    found = normalisations(model)
    if not found:
        return Record(name="batch_norm_reestimation", changed=())
    momenta = {name: module.momentum for name, module in found.items()}
    saved = {name: {k: v.clone() for k, v in module.named_buffers()} for name, module in found.items()}
    finished = False
    with eval_mode(model):
        try:
            for module in found.values():
                module.reset_running_stats()  # type: ignore[operator]
                # None makes torch keep the plain average over all batches.
                module.momentum = None  # type: ignore[assignment]
                module.train()
            batches = sum(1 for batch in batches_of(calibration, example) if _forward(model, batch))
            finished = True
        finally:
            for name, module in found.items():
                module.momentum = momenta[name]
                if not finished:
                    for buffer, value in saved[name].items():
                        module.get_buffer(buffer).copy_(value)
    return Record(
        name="batch_norm_reestimation",
        changed=tuple(found),
        details={"batches": float(batches)},
    )


def _forward(model: nn.Module, batch: Inputs) -> bool:
    batch.call(model)
    return True
