"""Quantizers of weights as AIMET trains them: the range is that of the weight as it is."""

import torch
from torch import Tensor

from gracile.maths.fake_quant import fake_quantize, rows_of
from gracile.quant.observers import ObserverMaker
from gracile.quant.trained import TrainedQuantizer
from gracile.quantizer import Quantizer


class FollowingRange(TrainedQuantizer):
    """Straight-through fake quantization whose range is chosen anew, by an observer, in each step of training.

    Args:
        plain: of a weight.
        maker: makes the observer.
    """

    def __init__(self, plain: Quantizer, maker: ObserverMaker) -> None:
        super().__init__(plain)
        self._maker = maker
        self._trained = False

    def trained(self, values: Tensor) -> Tensor:
        # Once more after the last step, whose weights no training has seen.
        if not self.frozen and (self.training or self._trained):
            self.fit(values)
            self._trained = self.training
        return fake_quantize(values, self.scale, self.zero_point, self.spec)

    @torch.no_grad()
    def fit(self, values: Tensor) -> None:
        """Choose the range of ``values``."""
        observer = self._maker()
        observer.observe(rows_of(values.detach(), self.spec))
        self.set_range(*observer.range(self.spec))
