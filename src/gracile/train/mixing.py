"""Mixtures of examples: where another model answers for them, a few unlabelled ones go a longer way."""

import torch
from torch import Tensor

from gracile.inputs import Inputs


def mixed(batch: Inputs) -> Inputs:
    """A batch of as many examples, about half of them a mixture with another one of ``batch``.

        x'_i = s_i x_i + (1 - s_i) x_p(i),    s_i is 1 or uniform in [0, 1), as a coin falls; p a permutation

    Those that stay keep the batch near what the model will meet.  All tensors of an example are mixed by the same
    share.  Mixtures are mixup's (Zhang et al. 2018, arXiv:1710.09412), with a teacher's answers in place of mixed
    labels (Beyer et al. 2022, arXiv:2106.05237).  The batch itself is given back where mixtures mean nothing: whole
    numbers and flags (tokens, masks), infinities, no axis of examples, one example.

    The draws are from torch's random numbers on the CPU.
    """
    tensors, size = batch.tensors, batch.batch_size
    if size is None or size < 2 or not all(tensor.is_floating_point() for tensor in tensors):
        return batch
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        return batch
    partners = torch.randperm(size)
    shares = torch.where(torch.rand(size) < 0.5, torch.ones(size), torch.rand(size))

    def mix(tensor: Tensor) -> Tensor:
        share = shares.to(tensor).reshape(-1, *[1] * (tensor.ndim - 1))
        return share * tensor + (1 - share) * tensor[partners.to(tensor.device)]

    return batch.mapped(mix)
