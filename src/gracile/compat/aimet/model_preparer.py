"""What ``aimet_torch.model_preparer`` holds; nothing has to be prepared here."""

import copy
from typing import Any

from torch import nn

__all__ = ["prepare_model"]


def prepare_model(
    model: nn.Module,
    modules_to_exclude: Any = None,  # noqa: ARG001 - AIMET's signature
    module_classes_to_exclude: Any = None,  # noqa: ARG001
    concrete_args: Any = None,  # noqa: ARG001
) -> nn.Module:
    """A copy of ``model``, and nothing else: the captured program needs no preparation.

    AIMET rewrites functional operations as modules and copies modules that are used twice, because it quantizes at the
    borders of modules.  `QuantizationSimModel` captures the program and quantizes at its operations, so that it takes
    the model as it is.  The other arguments have no effect.
    """
    return copy.deepcopy(model)
