"""``ModelSpeedup``: masked models become small, by `gracile.prune.speedup`."""

import logging
from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
from torch import nn

from gracile.compat.nni.common.compressor import masks_from
from gracile.errors import InputError
from gracile.graph import tensors_of
from gracile.plan import Plan
from gracile.prune.gates import gates_of
from gracile.prune.shrinking import speedup
from gracile.report import Record
from gracile.surgery import apply

log = logging.getLogger(__name__)


class ModelSpeedup:
    """Makes a masked model small, in place.

    Args:
        model: without masks on it: call the pruner's ``unwrap_model()`` first.
        dummy_input: a tensor, a tuple of positional arguments or a dictionary of keywords.
        masks_or_file: what a pruner's ``compress`` or ``get_masks`` gave, or a file of it.
        map_location: where a file's tensors go.
        options: batch_dim, batch_size, confidence and customized functions of NNI's tracing are accepted and have no
            use: channels are followed through the captured program.  What removed channels emitted is folded into
            biases, as `gracile.prune.speedup` says.

    Raises:
        InputError: a mask does not fit, or the model is wrapped.
        FileError: the file cannot be read.
        CaptureError: the model cannot be captured.
    """

    def __init__(
        self,
        model: nn.Module,
        dummy_input: Any,
        masks_or_file: Mapping[str, Any] | str | PathLike[str] | None = None,
        map_location: Any = None,
        *_positional: Any,
        masks_file: Mapping[str, Any] | str | PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        known = {
            "batch_dim", "batch_size", "confidence", "customized_replace_func", "customized_mask_updaters",
            "customized_replacers", "graph_module", "garbage_collect_values", "logger",
        }  # fmt: skip
        unknown = sorted(set(options) - known)
        if unknown:
            raise InputError(f"ModelSpeedup takes no {unknown[0]!r}; it takes {', '.join(sorted(known))}")
        for name in ("customized_replace_func", "customized_mask_updaters", "customized_replacers"):
            if options.get(name):
                log.warning("%s has no use: modules are cut by their captured program, whatever their class", name)
        masks = masks_file if masks_or_file is None else masks_or_file
        if masks is None:
            raise InputError("give masks_or_file: the masks of a pruner, or a file of them")
        if gates_of(model):
            raise InputError(
                f"the model is wrapped: {next(iter(gates_of(model)))} has a mask on it; call pruner.unwrap_model() "
                "first"
            )
        self.bound_model = model
        self.dummy_input = dummy_input
        self.masks = masks_from(masks, map_location)
        # What was cut, and how far the small model is from the masked one; after `speedup_model`.
        self.plan: Plan | None = None
        self.record: Record | None = None

    def speedup_model(self) -> nn.Module:
        """Cut the model that was given; it is also returned."""
        found = speedup(self.bound_model, self.dummy_input, self.masks)
        self.plan, self.record = found.plan, found.record
        if "notes" in found.record.details:
            log.warning("%s", found.record.details["notes"])
        made = apply(self.bound_model, found.plan, inplace=True)
        if made is not self.bound_model:
            # The model itself was replaced: its object takes over what stands for it.
            self.bound_model.__dict__, self.bound_model.__class__ = made.__dict__, made.__class__
        values = tensors_of(found.model)
        with torch.no_grad():
            for name, tensor in tensors_of(self.bound_model).items():
                tensor.copy_(values[name])
        return self.bound_model
