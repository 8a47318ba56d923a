"""What the layers of a problem look like, for searches that look at them."""

from collections.abc import Iterable, Sequence

import numpy as np

from gracile.channels import ChannelGroup
from gracile.cost import Operation
from gracile.search.problem import Floats


def shapes_of(operations: Iterable[Operation | None]) -> Floats:
    """[operations, 6]: outputs, inputs, height, width, stride and kernel size; zeros for what an operation has not."""
    return np.array([_row(operation) for operation in operations], dtype=np.float64).reshape(-1, 6)


def producers(groups: Iterable[ChannelGroup], operations: Sequence[Operation]) -> list[Operation | None]:
    """For each group the first convolution or linear whose outputs it cuts."""
    found = []
    for group in groups:
        cut = {member.tensor for member in group.members if member.axis == 0}
        making = (operation for operation in operations if operation.shape is not None and operation.weight in cut)
        found.append(next(making, None))
    return found


def _row(operation: Operation | None) -> tuple[float, ...]:
    if operation is None or operation.shape is None:
        return (0.0,) * 6
    shape = operation.shape
    # Sequences are as high as they are long, and one wide; what a linear layer reads has neither.
    height, width = (*operation.size[:2], 1, 1)[:2] if operation.size else (0, 0)
    return (shape.outputs, shape.inputs, height, width, max(shape.stride, default=0), max(shape.kernel, default=0))
