"""AIMET's words of quantization: schemes, types of numbers, callbacks."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from gracile.errors import InputError

__all__ = ["CallbackFunc", "QuantScheme", "QuantizationDataType"]


class QuantScheme(Enum):
    """How ranges are chosen, and whether training moves them."""

    # The smallest and the largest value.
    post_training_tf = 1
    # The best signal-to-noise ratio, errors of clipped values counted three times.
    post_training_tf_enhanced = 2
    # The same two as the start of ranges that are learned.
    training_range_learning_with_tf_init = 3
    training_range_learning_with_tf_enhanced_init = 4
    # All but a share of the values.
    post_training_percentile = 6

    @classmethod
    def of(cls, value: "QuantScheme | str | None") -> "QuantScheme":
        """A scheme, one of AIMET's short names for it, or the default for None.

        Raises:
            InputError: it is none.
        """
        if isinstance(value, QuantScheme):
            return value
        found = _NAMES.get(value) if value is None or isinstance(value, str) else None
        if found is None:
            raise InputError(
                f"quant_scheme is {value!r}; give a QuantScheme ({', '.join(item.name for item in cls)}), or one of "
                f"{', '.join(repr(name) for name in _NAMES if name)}"
            )
        return found

    @property
    def observer(self) -> str:
        """The observer of gracile that chooses such ranges."""
        if self is QuantScheme.post_training_percentile:
            return "percentile"
        return "sqnr" if "enhanced" in self.name else "minmax"

    @property
    def learns(self) -> bool:
        """Whether training moves the ranges."""
        return self.name.startswith("training")


_NAMES = {
    None: QuantScheme.post_training_tf_enhanced,
    "tf": QuantScheme.post_training_tf,
    "min_max": QuantScheme.post_training_tf,
    "tf_enhanced": QuantScheme.post_training_tf_enhanced,
    "percentile": QuantScheme.post_training_percentile,
    "tf_range_learning": QuantScheme.training_range_learning_with_tf_init,
    "tf_range_learning_with_tf_init": QuantScheme.training_range_learning_with_tf_init,
    "tf_range_learning_with_tf_enhanced_init": QuantScheme.training_range_learning_with_tf_enhanced_init,
}


class QuantizationDataType(Enum):
    """Integers, or short floating point, which gracile does not simulate."""

    undefined = 0
    int = 1
    float = 2


@dataclass
class CallbackFunc:
    """A function of the model and of one further argument, called as AIMET calls it.

    Raises:
        InputError: it is no function.
    """

    func: Callable[..., Any]
    func_callback_args: Any = None

    def __post_init__(self) -> None:
        if not callable(self.func):
            raise InputError(f"func is a {type(self.func).__name__}; give a function of (model, arguments)")
        self.args = self.func_callback_args

    def __call__(self, model: Any) -> Any:
        """``func(model, func_callback_args)``."""
        return self.func(model, self.func_callback_args)
