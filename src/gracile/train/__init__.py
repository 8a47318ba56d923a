"""Ready-made training: a plain loop on accelerate, and the same for Lightning and transformers.

`fit` is the loop, and `fine_tuning` makes a ``fine_tune`` for `gracile.compress` of it.  The modules ``lightning`` and
``transformers`` in here are imported on their own, as they need those packages.
"""

from gracile.train.loop import Training, fine_tuning, fit

__all__ = ["Training", "fine_tuning", "fit"]
