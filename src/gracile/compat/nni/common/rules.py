"""What a config_list asks for, in one form for both dialects: a rule for each parameter that is masked."""

from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.nn.modules.conv import _ConvTransposeNd

from gracile.graph import tensors_of
from gracile.plan import child

# A block's sizes along the axes of a parameter, and at which end an axis that is not named is filled up: in front with
# blocks of a single index, at the back with whole axes.
Kernel = tuple[tuple[int, ...], Literal["front", "back"]]
Granularity = Literal["default", "out_channel", "in_channel"] | Kernel


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How one parameter of one module is masked."""

    # "config_list[1]", for messages.
    where: str
    module: str
    target: str = "weight"
    # The share to remove, or the score from which on a unit stays; one of both.
    ratio: float | None = None
    threshold: float | None = None
    min_ratio: float = 0.0
    max_ratio: float = 1.0
    # Rules of one group are compared with each other; of one dependency group they lose the same units.
    global_group: str | None = None
    dependency_group: str | None = None
    # Units fall into so many equal runs, each of which loses the same positions.
    runs: int = 1
    granularity: Granularity = "default"
    # Other parameters of the module that follow this one's mask -> the axes of this one that they share.
    followers: tuple[tuple[str, tuple[int, ...]], ...] = ()
    # Of ADMM's penalty.
    rho: float = 1e-4

    @property
    def name(self) -> str:
        """The parameter's name in the model."""
        return child(self.module, self.target)


def output_axis(module: nn.Module) -> int:
    """The axis of a module's weight that its outputs run along."""
    return 1 if isinstance(module, _ConvTransposeNd) else 0


def parameter_of(module: nn.Module, name: str) -> nn.Parameter | None:
    """The module's own parameter of that name, masked or not; None where it has none."""
    found = tensors_of(module).get(name)
    return found if isinstance(found, nn.Parameter) else None


def bias_follows(module: nn.Module) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The bias, where each of its entries belongs to one output of the weight."""
    weight, bias = parameter_of(module, "weight"), parameter_of(module, "bias")
    axis = output_axis(module)
    if weight is None or bias is None or weight.ndim <= axis:
        return ()
    return (("bias", (axis,)),) if tuple(bias.shape) == (weight.shape[axis],) else ()


def block_of(
    granularity: Granularity, module: nn.Module, ndim: int, default: Literal["output", "element"]
) -> tuple[int, ...]:
    """The sizes of a block along each axis, -1 for whole axes.

    Raises:
        ValueError: the granularity names more axes than there are.
    """
    if isinstance(granularity, tuple):
        sizes, side = granularity
        missing = ndim - len(sizes)
        if missing < 0:
            raise ValueError(f"it names {len(sizes)} axes, and the parameter has {ndim}")
        return (*(1,) * missing, *sizes) if side == "front" else (*sizes, *(-1,) * missing)
    if granularity == "default" and default == "element":
        return (1,) * ndim
    axis = 1 - output_axis(module) if granularity == "in_channel" else output_axis(module)
    if axis >= ndim:
        if granularity == "in_channel":
            raise ValueError("the parameter has a single axis")
        axis = 0
    return tuple(1 if place == axis else -1 for place in range(ndim))
