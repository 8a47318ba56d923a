"""What the pruners of both generations have in common."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Literal

import torch
from torch import nn

from gracile.compat.nni.common.evaluator import Evaluator, require_evaluator
from gracile.compat.nni.common.masking import Masking, Masks
from gracile.compat.nni.common.rules import Rule
from gracile.compat.nni.common.scoring import Scoring, WeightScores
from gracile.errors import FileError, InputError
from gracile.export.files import write_tensors
from gracile.graph import tensors_of
from gracile.maths import criteria
from gracile.plan import child


class Compressor:
    """Masks on a model, which `compress` chooses.

    While the model is wrapped, zeros stand where masks hide values.  `unwrap_model` takes the masks away and shows the
    values again, as NNI does; `gracile.compat.nni.speedup.ModelSpeedup` makes the small model.
    """

    # What a mask hides at once where the config_list does not say: all that belongs to one output, or single elements.
    _default: Literal["output", "element"] = "output"

    def __init__(
        self,
        model: nn.Module,
        rules: Sequence[Rule],
        config_list: Any,
        evaluator: Evaluator | None = None,
    ) -> None:
        require_evaluator(evaluator)
        self.bound_model = model
        self.config_list = config_list
        self.evaluator = evaluator
        if evaluator is not None:
            evaluator.bind_model(model)
        self._check(rules)
        self._masking = Masking(model, rules, self._default)

    def _check(self, rules: Sequence[Rule]) -> None:
        """Raises InputError where a rule is none for this pruner."""

    def _scoring(self) -> Scoring:
        """The scores of the units, by the pruner's criterion."""
        return WeightScores(self._masking, criteria.l1)

    def _require_evaluator(self) -> Evaluator:
        if self.evaluator is None:
            raise InputError(
                f"{type(self).__name__} trains the model: give an evaluator, as TorchEvaluator(training_func, "
                "optimizer, training_step)"
            )
        return self.evaluator

    def get_masks(self) -> Masks:
        """Module -> parameter -> 1.0 where values stay and 0.0 where not, in the parameter's shape."""
        return self._masking.masks

    def load_masks(self, masks: Mapping[str, Mapping[str, Any]] | str | PathLike[str]) -> None:
        """Masks that `get_masks` gave, or a file of them.

        Raises:
            InputError: they do not fit this pruner.
            FileError: the file cannot be read.
        """
        self._masking.load(masks_from(masks))

    def update_masks(self, masks: Mapping[str, Mapping[str, Any]]) -> None:
        """The same as `load_masks`."""
        self.load_masks(masks)

    def wrap_model(self) -> None:
        """Put the masks on the model."""
        self._masking.wrap()

    def unwrap_model(self) -> nn.Module:
        """Take them away; what they hid stands there again.  Returns the model."""
        self._masking.unwrap()
        return self.bound_model

    def export_model(self, model_path: str | PathLike[str], mask_path: str | PathLike[str] | None = None) -> None:
        """Take the masks away and save the state_dict with zeros where they were, and the masks.

        Raises:
            FileError: a file cannot be written.
        """
        self._masking.unwrap()
        state = {name: value.detach().clone() for name, value in self.bound_model.state_dict().items()}
        masks = self.get_masks()
        tensors = tensors_of(self.bound_model)
        zeros = {
            id(tensors[child(module, target)]): mask for module, own in masks.items() for target, mask in own.items()
        }
        for name, value in state.items():
            mask = zeros.get(id(tensors.get(name)))
            if mask is not None:
                value.mul_(mask.to(value))
        write_tensors(model_path, state)
        if mask_path is not None:
            write_tensors(mask_path, masks)


def masks_from(masks: Mapping[str, Any] | str | PathLike[str], map_location: Any = None) -> Mapping[str, Any]:
    """Masks, or those that a file of torch.save has; never unpickled.

    Raises:
        FileError: there is no such file, or it holds something else.
    """
    if isinstance(masks, Mapping):
        return masks
    if not isinstance(masks, str | PathLike):
        raise InputError(f"masks is a {type(masks).__name__}; give the dictionary of a pruner, or a file of it")
    try:
        found = torch.load(masks, map_location=map_location or "cpu", weights_only=True)
    except OSError as error:
        raise FileError(f"{masks} cannot be read as masks: {error}") from error
    except Exception as error:
        # What torch says is to unpickle it all the same.
        raise FileError(
            f"{masks} cannot be read as masks: it is damaged, or holds more than tensors, and gracile unpickles "
            "nothing; save the dictionary of masks alone with torch.save"
        ) from error
    if not isinstance(found, Mapping):
        raise FileError(f"{masks} holds a {type(found).__name__}, and no dictionary of masks")
    return found
