"""transformers' Trainer under a run.

Import it as ``from gracile.train.transformers import RunTrainer``; it needs the package transformers.

A TrainerCallback sees the gradients only after backward, when the graph that the penalty needs is gone.  What
the Trainer documents for another loss is a subclass with its own ``compute_loss``; so that is what this is: a class in
plain sight, `WithRun`, for ``transformers.Trainer`` (`RunTrainer`) or any subclass of it:

    class MyTrainer(WithRun, trl.SFTTrainer): ...
"""

from typing import Any

from torch import Tensor, nn

from gracile.errors import InputError
from gracile.extras import extra
from gracile.session import Run

_transformers: Any = extra("transformers", "transformers")


class WithRun:
    """Put it before a Trainer class; its ``run`` argument is what `gracile.prepare` made of the model.

    The penalty joins the loss in training, and not in evaluation; with gradient accumulation it is weighed as
    a mean over the passes.  The run's step follows each step of the optimizer.  Call ``run.finalize()`` after
    ``trainer.train()``.

    Raises:
        InputError: the run was prepared for a model that is not the Trainer's, nor part of it, or the Trainer would
            run copies of the model on several devices of one process.
    """

    def __init__(self, *args: Any, run: Run, **kwargs: Any) -> None:
        if not isinstance(run, Run):
            raise InputError(f"run is a {type(run).__name__}; give what gracile.prepare returned")
        super().__init__(*args, **kwargs)
        trainer: Any = self
        if not any(module is run.model for module in trainer.model.modules()):
            raise InputError(
                f"the run was prepared for another model than the Trainer's {type(trainer.model).__name__}; give both "
                "the same one (model=run.model)"
            )
        if trainer.args.n_gpu > 1:
            raise InputError(
                f"one process would train copies of the model on {trainer.args.n_gpu} devices, whose passes a run "
                "cannot tell apart; start one process a device with accelerate launch or torchrun, or show one only"
            )
        self._run = run
        trainer.add_callback(_Steps(self))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The Trainer's loss, and in training the run's penalty."""
        trainer: Any = super()
        found = trainer.compute_loss(
            model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
        )
        if not model.training:
            return found
        penalty = self._run.penalty() / self._passes(num_items_in_batch)
        return (found[0] + penalty, found[1]) if return_outputs else found + penalty

    def _passes(self, num_items_in_batch: Tensor | int | None) -> int:
        """Where the loss is a mean over all passes of a step already, the Trainer does not divide by their number."""
        trainer: Any = self
        scaled = getattr(trainer, "loss_is_scaled_for_ga", None)
        if scaled is None:
            by_model = trainer.model_accepts_loss_kwargs and num_items_in_batch is not None
            scaled = by_model or trainer.compute_loss_func is not None
        return int(trainer.current_gradient_accumulation_steps) if scaled else 1


class _Steps(_transformers.TrainerCallback):  # type: ignore[misc]
    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        # A gradient scaler leaves steps with overflowing gradients out.
        if not self._trainer.accelerator.optimizer_step_was_skipped:
            self._trainer._run.step()


class RunTrainer(WithRun, _transformers.Trainer):  # type: ignore[misc]
    """``transformers.Trainer`` with one more keyword argument, ``run``."""
