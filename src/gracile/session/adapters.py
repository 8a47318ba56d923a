"""Linear maps from a student layer's channels to those of a teacher layer, trained beside the student."""

from collections.abc import Mapping

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from gracile.session.processes import process_count

# Student module, teacher module.
Pair = tuple[str, str]


class Adapters:
    """One linear map for each pair of layers whose channels differ; pairs without one pass through.

    Romero et al., "FitNets: Hints for Thin Deep Nets", 2015, arXiv:1412.6550, section 2.2, call it a regressor.  Its
    gradient is taken on its own, from detached activations.  It is the gradient that it would have as part of
    the loss, but neither the user's optimizer nor a gradient scaler or a distributed wrapper needs to know it.
    """

    def __init__(self, widths: Mapping[Pair, tuple[int, int]], *, axis: int, rate: float, seed: int) -> None:
        """Draw the maps.

        Args:
            widths: the channels of student and teacher of each pair.
            axis: of the channels.
            rate: of Adam; with 0 the maps stay as they were drawn.
            seed: of the draw, Gaussian with a variance of one over the student's channels.
        """
        generator = torch.Generator().manual_seed(seed)
        self._maps = {
            pair: nn.Parameter(torch.randn(outputs, inputs, generator=generator) / inputs**0.5)
            for pair, (inputs, outputs) in widths.items()
        }
        self._axis = axis
        self._passes = 0
        self._optimizer = torch.optim.Adam(self._maps.values(), lr=rate) if self._maps and rate else None

    @property
    def trained(self) -> bool:
        return self._optimizer is not None

    def has(self, pair: Pair) -> bool:
        return pair in self._maps

    def adapted(self, pair: Pair, student: Tensor, *, learning: bool = False) -> Tensor:
        """The student's activations with the teacher's number of channels.

        Args:
            learning: gradients go to the map and not to the student, instead of the other way round.
        """
        if pair not in self._maps:
            return student
        found = self._maps[pair]
        if found.device != student.device:
            # The parameter stays the object that the optimizer knows.
            found.data = found.data.to(student.device)
        wide = torch.promote_types(student.dtype, torch.float32)
        weight = (found if learning else found.detach()).to(wide)
        moved = (student.detach() if learning else student).to(wide).movedim(self._axis, -1)
        return F.linear(moved, weight).movedim(-1, self._axis)

    def learn(self, pair: Pair, loss: Tensor) -> None:
        """Add the gradient of ``loss``, made with ``learning=True``, to the pair's map."""
        found = self._maps[pair]
        (gradient,) = torch.autograd.grad(loss, [found])
        found.grad = gradient if found.grad is None else found.grad + gradient

    def count(self) -> None:
        """One more backward pass before the next step."""
        self._passes += 1

    def step(self) -> None:
        """Step Adam with the mean of the gradients since the last step, over all processes."""
        if self._optimizer is None or not self._passes:
            return
        processes = process_count()
        for weight in self._maps.values():
            if processes > 1:
                # Another process may have chosen another pair.
                weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
                distributed.all_reduce(weight.grad)
            if weight.grad is not None:
                weight.grad /= self._passes * processes
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._passes = 0
