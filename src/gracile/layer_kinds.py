"""Which modules compute what torch's own layers do, so that an Edit may take them apart or fold them together."""

from torch import nn

from gracile.maths.factorize import LayerShape, Scheme

CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def unfit(module: nn.Module, scheme: Scheme) -> str | None:
    """Why ``scheme`` cannot factorize ``module``; None where it can.

    The module must compute exactly what torch's own layer does with a weight of its own, or replacing it would
    change more than the weight.
    """
    convolution = isinstance(module, tuple(CONVOLUTIONS.values()))
    if isinstance(module, TRANSPOSED):
        return "transposed convolution"
    if not convolution and not isinstance(module, nn.Linear):
        return f"{type(module).__name__} is neither a convolution nor a linear layer"
    if nn.utils.parametrize.is_parametrized(module):
        return "its weight is parametrized; make it plain with torch.nn.utils.parametrize.remove_parametrizations"
    if not computes_as(module, (*CONVOLUTIONS.values(), nn.Linear)):
        return f"{type(module).__name__} has a forward of its own"
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
        return "it carries hooks, which a replacement would lose; remove them first"
    if convolution and module.groups != 1:
        return f"grouped convolution ({module.groups} groups)"
    if scheme == "spatial_svd" and not isinstance(module, nn.Conv2d):
        return "spatial SVD needs a two-dimensional convolution"
    if not module.weight.is_floating_point():  # type: ignore[operator]
        return f"its weight is {module.weight.dtype}, not floating point"
    return None


def shape_of(module: nn.Module) -> LayerShape:
    """The shape of a convolution (not transposed) or linear layer."""
    if isinstance(module, nn.Linear):
        return LayerShape(inputs=module.in_features, outputs=module.out_features)
    assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    # torch keeps the amounts last axis first, two an axis, string paddings worked out.
    amounts = module._reversed_padding_repeated_twice
    pairs = tuple(zip(amounts[::2], amounts[1::2], strict=True))[::-1]
    return LayerShape(
        inputs=module.in_channels,
        outputs=module.out_channels,
        kernel=module.kernel_size,
        stride=module.stride,
        dilation=module.dilation,
        padding=pairs,
        groups=module.groups,
    )


def unfoldable(layer: nn.Module, batch_norm: nn.Module, *, rest: bool = False) -> str | None:
    """Why the modules cannot be folded into one, wherever they stand; None where they can.

    Args:
        rest: the batch-norm's class may have a forward of its own, of which the rest stays.
    """
    if not (isinstance(batch_norm, BATCH_NORMS) if rest else computes_as(batch_norm, BATCH_NORMS)):
        return f"{type(batch_norm).__name__} is no batch-norm of torch's own"
    if batch_norm.running_mean is None:
        return "the batch-norm keeps no running statistics"
    if not computes_as(layer, (*CONVOLUTIONS.values(), *TRANSPOSED, nn.Linear)):
        return f"{type(layer).__name__} is no convolution or linear layer of torch's own"
    if nn.utils.parametrize.is_parametrized(layer):
        return "its weight is parametrized; make it plain with torch.nn.utils.parametrize.remove_parametrizations"
    return None


def computes_as(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Whether the module's forward is that of one of these layers of torch."""
    inherited = ("forward", "_conv_forward")
    return any(
        isinstance(module, kind)
        and all(getattr(type(module), name, None) is getattr(kind, name, None) for name in inherited)
        for kind in kinds
    )
