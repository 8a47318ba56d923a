"""``nni.trace``, which is not needed here."""

from typing import Any


def trace(target: Any = None, **_options: Any) -> Any:
    """``target`` itself, as a function and as a decorator, with NNI's keywords or without.

    NNI wrapped optimizers, schedulers and trainers to be able to make them again, since its pruners exchange the
    parameters.  Here parameters stay the objects that they are, and so do all that hold them.
    """
    if target is None:
        return trace
    return target
