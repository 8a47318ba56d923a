"""Ready-made training: a plain loop on accelerate, and the same for Lightning and transformers.

`fit` is the loop, and `fine_tuning` makes a ``fine_tune`` for `gracile.compress` of it.  `recover` needs neither
labels nor accelerate: it teaches a compressed model what the original does.  The modules ``lightning`` and
``transformers`` in here are imported on their own, as they need those packages.
"""

from gracile.train.loop import Training, fine_tuning, fit
from gracile.train.recovery import Recovery, recover

__all__ = ["Recovery", "Training", "fine_tuning", "fit", "recover"]
