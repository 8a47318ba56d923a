"""What modules put out while a model runs, seen through forward hooks."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gracile.inputs import Inputs


def main_tensor(output: Any) -> Tensor | None:
    """The tensor that an output is about: ``logits`` where it has them, else its first tensor with an axis."""
    if isinstance(output, Tensor):
        return output if output.ndim else None
    values: Iterable[Any]
    if isinstance(output, Mapping):
        if isinstance(output.get("logits"), Tensor):
            return output["logits"]  # type: ignore[no-any-return]
        values = output.values()
    elif isinstance(getattr(output, "logits", None), Tensor):
        return output.logits  # type: ignore[no-any-return]
    elif isinstance(output, Sequence) and not isinstance(output, str):
        values = output
    else:
        return None
    return next((found for value in values if (found := main_tensor(value)) is not None), None)


class Observer:
    """The last training pass through a model: its inputs, its output, and the outputs of named modules.

    A pass counts where the model is in training mode and gradients are on, and only once it has come to its end;
    evaluation in between changes nothing.  A module that is called several times shows its last call.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self.inputs: Inputs | None = None
        self.output: Tensor | None = None
        self.layers: dict[str, Tensor] = {}
        self._running = False
        self._handles: list[RemovableHandle] = [
            # Before and after any other hooks of the model.
            model.register_forward_pre_hook(self._start, prepend=True),
            model.register_forward_hook(self._end, with_kwargs=True),
        ]
        for name in names:
            module = model.get_submodule(name)
            self._handles.append(module.register_forward_hook(partial(self._layer, name)))

    def clear(self) -> None:
        """Forget the pass, so that its activations can be freed."""
        self.inputs = None
        self.output = None
        self.layers = {}

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self.clear()

    def _start(self, model: nn.Module, _args: Any) -> None:
        self._running = model.training and torch.is_grad_enabled()
        if self._running:
            self.clear()

    def _layer(self, name: str, _module: nn.Module, _args: Any, output: Any) -> None:
        # Checkpointed layers run once more during backward: only what runs inside the model's own pass counts.
        if self._running and torch.is_grad_enabled():
            found = main_tensor(output)
            if found is not None:
                # Activations behind the layer may overwrite its output.
                self.layers[name] = found.clone()

    def _end(self, _model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self._running:
            self._running = False
            self.inputs = Inputs(args, dict(kwargs))
            self.output = main_tensor(output)


def observed(model: nn.Module, names: Iterable[str], inputs: Inputs) -> tuple[Tensor | None, dict[str, Tensor]]:
    """Run ``model`` once: its output and those of the named modules; no hook stays."""
    layers: dict[str, Tensor] = {}

    def keep(name: str, _module: nn.Module, _args: Any, output: Any) -> None:
        found = main_tensor(output)
        if found is not None:
            layers[name] = found.clone()

    handles = [model.get_submodule(name).register_forward_hook(partial(keep, name)) for name in names]
    try:
        return main_tensor(inputs.call(model)), layers
    finally:
        for handle in handles:
            handle.remove()
