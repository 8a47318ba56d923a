"""A Lightning callback that trains under a run.

Import it as ``from gracile.train.lightning import RunCallback``; it needs the package lightning.
"""

from typing import Any

from torch import Tensor

from gracile.errors import InputError
from gracile.extras import extra
from gracile.session import Run

_Callback: Any = extra("lightning.pytorch", "lightning").Callback


class RunCallback(_Callback):  # type: ignore[misc]
    """Adds a run's penalty to the loss, and calls its step after each step of the optimizer.

    Lightning hands callbacks the loss right before backward, and gives them no way to return another.  The penalty is
    added to that tensor in place: it becomes part of the same graph, so that there is one backward pass, which is
    what distributed wrappers require.  It is divided as Lightning divides the loss when gradients are accumulated,
    and scaled as its gradient scaler scales it.  What ``training_step`` logs does not contain it.

    ``run = gracile.prepare(module.network, ...)`` may have been made for the LightningModule or for a network in it.
    Call ``run.finalize()`` after ``trainer.fit``.
    """

    def __init__(self, run: Run) -> None:
        if not isinstance(run, Run):
            raise InputError(f"run is a {type(run).__name__}; give what gracile.prepare returned")
        super().__init__()
        self._run = run
        # Steps of the optimizer that the run knows of.
        self._steps = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Refuse what the callback cannot do.

        Raises:
            InputError: the run's model is not in the module, or the module optimizes by hand.
        """
        if not any(module is self._run.model for module in pl_module.modules()):
            raise InputError(
                f"the run was prepared for a {type(self._run.model).__name__} that is not part of this "
                f"{type(pl_module).__name__}; prepare the network that the module trains"
            )
        if not pl_module.automatic_optimization:
            raise InputError(
                "the module optimizes by hand: add run.penalty() to the loss before manual_backward, call run.step() "
                "after optimizer.step(), and leave this callback out"
            )
        self._steps = trainer.global_step

    def on_before_backward(self, trainer: Any, _pl_module: Any, loss: Tensor) -> None:
        """Add the penalty to the loss."""
        penalty = self._run.penalty() / trainer.accumulate_grad_batches
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        loss.add_(penalty if scaler is None else scaler.scale(penalty))

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Step the run if the optimizer was stepped."""
        if trainer.global_step > self._steps:
            self._steps = trainer.global_step
            self._run.step()
