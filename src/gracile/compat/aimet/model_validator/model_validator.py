"""What ``aimet_torch.model_validator.model_validator`` holds; nearly nothing has to be checked here."""

import logging
from collections.abc import Callable
from typing import Any, ClassVar

from torch import nn

from gracile.errors import CaptureError
from gracile.graph import capture

__all__ = ["ModelValidator"]

log = logging.getLogger(__name__)


class ModelValidator:
    """Says whether a model can be simulated.

    AIMET refuses functional operations and modules that are used twice.  Both are fine here: all that is asked is that
    the model can be captured.
    """

    _checks: ClassVar[list[Callable[..., bool]]] = []

    @staticmethod
    def add_check(validation_check: Callable[..., bool]) -> None:
        """Ask this function of (model, model_input), too, from now on."""
        ModelValidator._checks.append(validation_check)

    @staticmethod
    def validate_model(model: nn.Module, model_input: Any, **kwargs: Any) -> bool:
        """Whether the model can be captured on this input, and all added checks return True; the reasons are logged.

        Raises:
            InputError: the input is none.
        """
        try:
            capture(model, model_input, training=False)
        except CaptureError as error:
            log.warning("%s", error)
            return False
        failed = [check for check in ModelValidator._checks if not check(model, model_input, **kwargs)]
        for check in failed:
            log.warning("the check %s failed", getattr(check, "__name__", check))
        return not failed
