"""What a clip (a ReLU, for example) after a layer lets through, in numbers of the layer's own results."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gracile.graph import Graph, bare_name, clip_range
from gracile.reconstruct.sums import PASSING, SumPair, before_batch_norm, is_fixed, only_user


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """A clip that all results of a layer go through, perhaps after a batch-norm and an addition, and nothing else."""

    low: float
    high: float
    # The batch-norm between, of this program.
    batch_norm: str | None
    graph: Graph

    def borders(self, like: Tensor, beside: Tensor | None, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Between which results [N, C, ...] of the layer are not clipped.

        Args:
            like: results of the layer.
            beside: what is added to them before the clip.
        """
        found = [self._before(like.new_full((1,) * like.ndim, one), beside, tensors) for one in (self.low, self.high)]
        # A batch-norm of negative weight turns the range around; one of weight zero clips nothing.
        low, high = torch.minimum(*found), torch.maximum(*found)
        low, high = torch.where(low.isnan(), -torch.inf, low), torch.where(high.isnan(), torch.inf, high)
        return low.expand_as(like), high.expand_as(like)

    def _before(self, border: Tensor, beside: Tensor | None, tensors: Mapping[str, Tensor]) -> Tensor:
        wanted = border if beside is None else border - beside
        return wanted if self.batch_norm is None else before_batch_norm(self.graph, self.batch_norm, wanted, tensors)


def clip_after(graph: Graph, name: str, end: SumPair | None) -> Clip | None:
    """The clip after the layer whose call is the node ``name``; None without one.

    Args:
        end: the addition that the layer's results go into.
    """
    batch_norm = None if end is None else end.batch_norm
    node = only_user(graph, name if end is None else end.total)
    while node is not None:
        kind, clipped_to = bare_name(node.op), clip_range(node)
        if clipped_to is not None:
            return Clip(*clipped_to, batch_norm, graph)
        if kind == "batch_norm" and end is None and batch_norm is None and is_fixed(node):
            batch_norm = node.name
        elif kind not in PASSING:
            return None
        node = only_user(graph, node.name)
    return None
