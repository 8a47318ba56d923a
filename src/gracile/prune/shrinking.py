"""From masks that other tools made to a small model: which channels they free, and what those leave behind."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gracile.channels import ChannelGroups, channel_groups
from gracile.cutting import Cut, cut
from gracile.graph import Graph, capture
from gracile.inputs import ExampleInputs
from gracile.oracle import kept_by, largest, largest_difference, returned_by
from gracile.plan import Plan, Slice
from gracile.prune.folding import add_to, fold
from gracile.prune.foreign_masks import Masks, plain_copy, read_masks, zero_masked
from gracile.prune.removable import removable
from gracile.report import Record
from gracile.surgery import apply

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Speedup:
    """A small model that computes what a masked one does, as nearly as slices and biases can."""

    model: nn.Module
    # Makes the model's structure from the original, or from the model without torch's pruning hooks.
    plan: Plan
    # What was removed and folded, and the largest difference from the masked model on the example inputs.
    record: Record


@dataclass(frozen=True, slots=True)
class _Planned:
    """A masked model, and the cut that its masks allow."""

    # A copy with the masks as zeros.
    model: nn.Module
    graph: Graph
    cut: Cut
    # What the cut leaves of the masks, and what else the user should know.
    notes: tuple[str, ...]


def from_masks(model: nn.Module, example_inputs: ExampleInputs | Graph, masks: Masks) -> Plan:
    """The Plan that removes every channel that ``masks`` leave without use; see `gracile.prune.removable`.

    Zeros that fill no channel stay zeros, which is logged.  Constants that removed channels would leave behind are
    lost when this Plan is applied: `speedup` folds them.

    Args:
        model: left as it is; with or without the hooks of torch.nn.utils.prune.
        masks: 1 where a value stays, 0 where it goes: by the name of a parameter or a module, or NNI's dictionaries
            from a module to its parameters' masks.  `gracile.prune.masks_of` reads torch.nn.utils.prune's.

    Raises:
        InputError: a name is unknown, a mask does not fit its tensor, or has values other than 0 and 1.
        CaptureError: the model cannot be captured.
        PlanError: the cut model would be wrong.
    """
    planned = _plan(model, example_inputs, masks)
    for note in planned.notes:
        log.warning("%s", note)
    return planned.cut.plan


def speedup(
    model: nn.Module, example_inputs: ExampleInputs | Graph, masks: Masks, calibration: Iterable[Any] | None = None
) -> Speedup:
    """Make a masked model small: apply ``masks`` to a copy, remove the channels that they leave without use, and fold
    what those contribute on average into the biases of the layers that read them.

    A masked filter often still emits a constant: its bias, or what a batch-norm makes of zeros.  Where a layer reads it
    without padding, folding is exact; at borders that are padded with zeros it is an approximation, and the Record
    has the largest difference between the outputs of the masked and the small model before and after.  Layers without
    a bias take the constant through their batch-norm's running mean, or get a bias, which joins the Plan.  Layer,
    group and RMS norms over removed channels differ, too: the masked model's see zeros there.

    Args:
        model: left as it is; with or without the hooks of torch.nn.utils.prune.
        masks: as for `from_masks`.
        calibration: inputs on which the means are taken; the example inputs where left out.

    Raises:
        InputError: a name is unknown, a mask does not fit its tensor, has values other than 0 and 1, or the
            calibration data is empty or does not fit the model.
        CaptureError: the model cannot be captured.
        PlanError: the cut model would be wrong.
    """
    planned = _plan(model, example_inputs, masks)
    masked, graph, found = planned.model, planned.graph, planned.cut
    folding = fold(masked, graph, found.plan, [graph.example] if calibration is None else calibration)
    full = apply(masked, Plan(edits=folding.biases))
    add_to(full, folding.added)
    small = apply(full, Plan(edits=folding.around(found.plan).edits[len(folding.biases) :]), inplace=True)
    expected = returned_by(masked, graph.example)
    plain, folded = (returned_by(item, graph.example) for item in (apply(masked, found.plan), small))
    notes = [
        *planned.notes,
        *(f"what {weight} reads of removed channels is not folded: {why}" for weight, why in folding.left.items()),
    ]
    details: dict[str, float | str] = {
        "slices": float(sum(isinstance(edit, Slice) for edit in found.plan.edits)),
        "largest_output": largest(expected),
        "difference_before_folding": largest_difference(plain, expected),
        "difference_after_folding": largest_difference(folded, expected),
    }
    if notes:
        details["notes"] = "; ".join(notes)
    changed = sorted({name.rpartition(".")[0] for name in folding.added})
    return Speedup(small, folding.around(found.plan), Record(name="speedup", changed=tuple(changed), details=details))


def _plan(model: nn.Module, example_inputs: ExampleInputs | Graph, masks: Masks) -> _Planned:
    masked = plain_copy(model)
    graph = capture(masked, example_inputs)
    keeps = read_masks(masks, graph)
    zero_masked(masked, keeps)
    groups = channel_groups(graph)
    found = cut(masked, graph, groups, removable(graph, groups, keeps))
    notes = [*_rest(graph, found, keeps), *_norms(graph, groups, found.plan), *found.notes]
    return _Planned(masked, graph, found, tuple(notes))


def _norms(graph: Graph, groups: ChannelGroups, plan: Plan) -> list[str]:
    stays = groups.remaining(kept_by(plan, graph))
    changed = [graph.nodes[site.node].module for site in groups.norms if not stays[site.labels].all()]
    if not changed:
        return []
    return [
        f"norms that took masked channels for zeros now compute over the kept ones only: {', '.join(changed)}; outputs "
        "differ from the masked model's by that"
    ]


def _rest(graph: Graph, found: Cut, keeps: Mapping[str, Tensor]) -> list[str]:
    """What the cut leaves of the masks."""
    notes = [f"{name} is left whole: {reason}" for name, reason in found.dropped.items()]
    slices = [edit for edit in found.plan.edits if isinstance(edit, Slice)]
    for name, keep in keeps.items():
        zeros = ~keep
        left = zeros.clone()
        for edit in slices:
            if graph.canonical(edit.tensor) == name:
                gone = torch.ones(keep.shape[edit.axis], dtype=torch.bool)
                gone[list(edit.keep)] = False
                left.movedim(edit.axis, 0)[gone] = False
        if left.any():
            notes.append(f"{name}: {int(left.sum())} of {int(zeros.sum())} masked values stay as zeros; {_why(zeros)}")
    return notes


def _why(zeros: Tensor) -> str:
    """Why some values that are masked are not removed."""
    lines = (zeros.movedim(axis, 0).reshape(size, -1) for axis, size in enumerate(zeros.shape[:2]))
    whole = any(bool(line.all(1).any()) for line in lines)
    if zeros.ndim > 1 and not whole:
        return "they fill no channel"
    return "the channels are written or read by others that are not masked, or cannot be removed"
