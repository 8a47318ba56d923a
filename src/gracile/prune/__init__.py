"""Pruning: channels that go together, chosen by a criterion and removed for good; and masks within tensors.

`plan` chooses channels and `gracile.apply` removes them; `mask` and `unmask` are the same with zeros in place, and
`from_masks` and `speedup` make a smaller model of masks that others have made.  `sensitivity` scores each channel group
alone at several widths.  `sparsify` makes masks of single weights, blocks and rows; `gather` what criteria see of
them on data.
"""

from gracile.prune.foreign_masks import masks_of
from gracile.prune.gathering import gather
from gracile.prune.masks import mask, unmask
from gracile.prune.planning import plan
from gracile.prune.scores import register_criterion, scores_of
from gracile.prune.sensitivity import SensitivityTable, sensitivity
from gracile.prune.shrinking import Speedup, from_masks, speedup
from gracile.prune.sparsify import sparsify, sparsity_of

__all__ = [
    "SensitivityTable",
    "Speedup",
    "from_masks",
    "gather",
    "mask",
    "masks_of",
    "plan",
    "register_criterion",
    "scores_of",
    "sensitivity",
    "sparsify",
    "sparsity_of",
    "speedup",
    "unmask",
]
