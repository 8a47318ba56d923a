"""Low-rank factorization of one layer's weight: shapes, costs and the singular value decompositions.

A convolution with the weight W [n, m, *kernel] (n outputs, m inputs, one group) becomes two, of k channels
between them:

- ``weight_svd`` (Zhang et al. 2016, arXiv:1505.06798, section 3): a pointwise one of weight [k, m, 1, ...], then one
  of weight [k -> n] with the original kernel.  A linear layer is the case without kernel axes.
- ``spatial_svd`` (Jaderberg et al. 2014, arXiv:1405.3866, scheme 2): a vertical one [k, m, kh, 1], then a
  horizontal one [n, k, 1, kw].

Both are the best rank-k approximation of W seen as a matrix M [a, b]: a = m rows and b = n * prod(kernel) columns
for ``weight_svd``, a = m * kh and b = n * kw for ``spatial_svd``.  Row r of M meets entry r of a vector u [a] (the
channels, or a vertical patch); with a covariance C of u the error that counts is E|(M - M')^T u|^2, minimised by
the truncated SVD of C^(1/2) M.
"""

from dataclasses import dataclass
from math import prod
from typing import Literal, get_args

import torch
from torch import Tensor

Scheme = Literal["weight_svd", "spatial_svd"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)

# Damping of the covariance's eigenvalues, as a share of their mean: directions that the calibration data hardly
# excites still count a little, so that a few hundred images do not overfit.
DAMPING = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """A convolution of one or more groups; a linear layer has no kernel axes."""

    inputs: int
    outputs: int
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    # Before and after, along each kernel axis.
    padding: tuple[tuple[int, int], ...] = ()
    groups: int = 1

    @property
    def weight(self) -> tuple[int, ...]:
        return (self.outputs, self.inputs // self.groups, *self.kernel)

    def output_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Spatial output size for the spatial input size ``size``."""
        return tuple(
            (length + sum(pad) - dilation * (kernel - 1) - 1) // stride + 1
            for length, pad, dilation, kernel, stride in zip(
                size, self.padding, self.dilation, self.kernel, self.stride, strict=True
            )
        )

    def macs(self, size: tuple[int, ...]) -> int:
        """Multiply-accumulates of one example whose spatial input size is ``size``."""
        return prod(self.weight) * prod(self.output_size(size))


def early_stride(shape: LayerShape, axis: int) -> bool:
    """Whether the first factor may take the stride along ``axis``: where the second neither pads nor reaches."""
    return shape.kernel[axis] == 1 and shape.padding[axis] == (0, 0)


def factor_shapes(scheme: Scheme, shape: LayerShape, rank: int) -> tuple[LayerShape, LayerShape]:
    """The two layers that replace ``shape``.

    The second factor carries the stride, as the first must see every position that the second one's kernel
    reaches; only along axes where that kernel is a single unpadded tap does the first one stride already.
    """
    axes = range(len(shape.kernel))
    # Along these axes the first factor does the work; it leaves the others to the second.
    first_axes = set(axes[:1]) if scheme == "spatial_svd" else set()

    def factor(inputs: int, outputs: int, *, first: bool) -> LayerShape:
        works = [(axis in first_axes) == first for axis in axes]
        strides = [early_stride(shape, axis) == first if axis not in first_axes else first for axis in axes]
        return LayerShape(
            inputs=inputs,
            outputs=outputs,
            kernel=tuple(shape.kernel[axis] if works[axis] else 1 for axis in axes),
            stride=tuple(shape.stride[axis] if strides[axis] else 1 for axis in axes),
            dilation=tuple(shape.dilation[axis] if works[axis] else 1 for axis in axes),
            padding=tuple(shape.padding[axis] if works[axis] else (0, 0) for axis in axes),
        )

    return factor(shape.inputs, rank, first=True), factor(rank, shape.outputs, first=False)


def matrix(scheme: Scheme, weight: Tensor) -> Tensor:
    """The weight [n, m, *kernel] as the matrix [a, b] that is decomposed, in float64."""
    weight = weight.detach().double()
    if scheme == "weight_svd":
        return weight.transpose(0, 1).flatten(1)
    n, m, kh, kw = weight.shape
    return weight.permute(1, 2, 0, 3).reshape(m * kh, n * kw)


def factor_weights(scheme: Scheme, weight_shape: tuple[int, ...], left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The matrices left [a, k] and right [k, b] as the weights of the two layers."""
    n, m, *kernel = weight_shape
    rank = left.shape[1]
    if scheme == "weight_svd":
        first = left.T.reshape(rank, m, *(1 for _ in kernel))
        return first, right.reshape(rank, n, *kernel).transpose(0, 1)
    kh, kw = kernel
    first = left.T.reshape(rank, m, kh, 1)
    return first, right.reshape(rank, n, 1, kw).transpose(0, 1)


@dataclass(frozen=True, slots=True, eq=False)
class Decomposition:
    """M = left @ right at full rank r = min(a, b); its first k terms are the best of rank k.

    left [a, r], right [r, b] and the singular values sigma [r] of M, or of C^(1/2) M where the inputs'
    covariance C was given, in descending order; float64.
    """

    left: Tensor
    right: Tensor
    sigma: Tensor

    def truncated(self, rank: int) -> tuple[Tensor, Tensor]:
        return self.left[:, :rank], self.right[:rank]

    @property
    def residuals(self) -> Tensor:
        """Relative residual |M - M_k| / |M| for k = 0 ... r, in the norm that the decomposition minimises."""
        energy = self.sigma.square()
        tail = torch.cat([energy.flip(0).cumsum(0).flip(0), energy.new_zeros(1)])
        return (tail / tail[0].clamp_min(torch.finfo(energy.dtype).tiny)).sqrt()


def decompose(target: Tensor, covariance: Tensor | None = None) -> Decomposition:
    """Decompose ``target`` [a, b], in the norm that the covariance [a, a] of its inputs defines.

    With C + damping = E diag(d) E^T and the SVD U S V^T of diag(sqrt d) E^T M, the factors are
    left = E diag(1 / sqrt d) U S^(1/2) and right = S^(1/2) V^T; without C, those of M itself.
    """
    if covariance is None:
        u, sigma, vt = _svd(target)
        root = sigma.sqrt()
        # In place, as matrices of float64 are large.
        return Decomposition(u.mul_(root), vt.mul_(root[:, None]), sigma)
    values, vectors = torch.linalg.eigh(covariance.double())
    values = values.clamp_min(0)
    # An input that never varies gives no information: any damping then means the plain decomposition.
    damped = values + DAMPING * values.mean() if values.mean() > 0 else torch.ones_like(values)
    scale = damped.sqrt()
    u, sigma, vt = _svd(scale[:, None] * (vectors.T @ target))
    root = sigma.sqrt()
    return Decomposition((vectors / scale) @ u.mul_(root), vt.mul_(root[:, None]), sigma)


def _svd(target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The thin singular value decomposition, from the eigenvectors of the smaller Gram matrix: half the time.

    Squaring costs half of float64's digits in singular values below 1e-8 of the largest, but not in what the leading
    terms span: M_k = U_k U_k^T M is a projection, exact for the U that comes out.
    """
    if target.shape[0] > target.shape[1]:
        v, sigma, ut = _svd(target.T)
        return ut.T, sigma, v.T
    values, vectors = torch.linalg.eigh(target @ target.T)
    u, sigma = vectors.flip(1), values.flip(0).clamp_min(0).sqrt()
    del vectors
    # Terms that vanish get zero rows; any scale would do, as their weight is nil.
    safe = torch.where(sigma > 1e-12 * sigma[0], sigma, torch.inf)
    return u, sigma, (u.T @ target).div_(safe[:, None])


def max_rank(scheme: Scheme, shape: LayerShape) -> int:
    """The rank of the exact factorization: min(a, b)."""
    if scheme == "weight_svd":
        return min(shape.inputs, shape.outputs * prod(shape.kernel))
    kh, kw = shape.kernel
    return min(shape.inputs * kh, shape.outputs * kw)
