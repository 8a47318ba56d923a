"""Structural pruning: channels that go together, chosen by a criterion, removed for good.

`plan` chooses them and `gracile.apply` removes them; `mask` and `unmask` are the same with zeros in place, and
`from_masks` and `speedup` make a smaller model of masks that others have made.  `sensitivity` scores each channel group
alone at several widths.
"""

from gracile.prune.foreign_masks import masks_of
from gracile.prune.masks import mask, unmask
from gracile.prune.planning import plan
from gracile.prune.scores import scores_of
from gracile.prune.sensitivity import SensitivityTable, sensitivity
from gracile.prune.shrinking import Speedup, from_masks, speedup

__all__ = [
    "SensitivityTable",
    "Speedup",
    "from_masks",
    "mask",
    "masks_of",
    "plan",
    "scores_of",
    "sensitivity",
    "speedup",
    "unmask",
]
