"""Distillation: the student's outputs are drawn to those of a teacher, as a term of the penalty."""

import copy
import difflib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from gracile.errors import InputError
from gracile.graph import Graph, eval_mode
from gracile.inputs import Inputs, require_seed
from gracile.maths.distill import mean_square, nearest, soft_target_loss
from gracile.plan import Plan
from gracile.session.adapters import Adapters, Pair
from gracile.session.observing import Observer, observed

log = logging.getLogger(__name__)

LayerLoss = Literal["mse", "kl"]


@dataclass(frozen=True, eq=False)
class Distillation:
    """Learn from a teacher; a spec for `gracile.prepare`.

    The penalty is, for the last training pass (training mode, gradients on) through the model,

        weight * T^2 KL(softmax(teacher / T) || softmax(student / T)) + layer_weight * sum over layers of min_j d_j

    with d_j the mean squared error, or the KL term, between a student module's output and that of the j-th teacher
    module linked to it.  The first term is that of Hinton et al. 2015, arXiv:1503.02531, section 2 and equation 4; the
    minimum is that of NNI's DynamicLayerwiseDistiller.  Where the channels of linked layers differ, the student's pass
    a linear map first, as in its Adaptive1dLayerwiseDistiller; Adam trains the maps in ``step``, and ``finalize``
    drops them.

    The teacher takes the student's arguments.  It runs in evaluation mode without gradients on the inputs of the same
    pass, on its own device and in its own precision, and is left as it is; where it is the student itself, a copy
    of what it is now is taken.  Outputs may be tensors, tuples, dictionaries or Hugging Face outputs: their
    ``logits`` count, else their first tensor.

    Several passes before one ``penalty``: the last one counts.  ``penalty`` again for the same pass does not run
    the teacher again.  With gradient accumulation call it once a pass, and weigh it as you weigh the loss.

    Raises:
        InputError: an option out of range.
    """

    teacher: nn.Module
    _: KW_ONLY
    # Of the term on the models' outputs; 0 leaves it out.
    weight: float = 1.0
    # Divides the logits of student and teacher before the softmax.
    temperature: float = 2.0
    # Student module -> teacher modules, one or several; or the names of modules that both models have.
    layers: Mapping[str, str | Sequence[str]] | Sequence[str] = ()
    # Of the layers' terms.
    layer_weight: float = 1.0
    # Of the layers: "mse", or "kl" at the same temperature.
    loss: LayerLoss = "mse"
    # The axis of classes and channels: -1 in transformers and linear networks, 1 where the layers are convolutions.
    axis: int = -1
    # Adam's learning rate for the linear maps; 0 leaves them as they are drawn.
    adapter_rate: float = 1e-3
    # Of that draw.
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.teacher, nn.Module):
            raise InputError(f"teacher is a {type(self.teacher).__name__}; give a torch.nn.Module")
        for name in ("weight", "temperature", "layer_weight", "adapter_rate"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise InputError(f"{name} is {value!r}; give a number of at least 0")
        if not self.temperature:
            raise InputError("temperature is 0, and logits are divided by it; 1 leaves them as they are")
        if self.loss not in get_args(LayerLoss):
            raise InputError(f"loss is {self.loss!r}; it is one of {', '.join(get_args(LayerLoss))}")
        if isinstance(self.layers, str):
            raise InputError(f"layers is the text {self.layers!r}; give a list of names, or a dictionary of links")
        if not isinstance(self.layers, Mapping | Sequence):
            raise InputError(f"layers is {self.layers!r}; give a list of names, or a dictionary of links")
        for name, linked in self.links.items():
            if not all(isinstance(item, str) for item in (name, *linked)):
                raise InputError(f"layers links {name!r} to {linked!r}; names of modules are texts, as 'layer1.0'")
        if isinstance(self.axis, bool) or not isinstance(self.axis, int):
            raise InputError(f"axis is {self.axis!r}; give the number of an axis, as -1 or 1")
        require_seed(self.seed)
        if not self.weight and not (self.links and self.layer_weight):
            raise InputError("nothing is distilled: weight is 0, and no layers are linked; give layers or a weight")

    @property
    def links(self) -> dict[str, tuple[str, ...]]:
        """Student module -> the teacher modules that are linked to it."""
        if not isinstance(self.layers, Mapping):
            return {name: (name,) for name in self.layers}
        return {
            student: tuple(teachers) if isinstance(teachers, list | tuple) else (teachers,)  # type: ignore[misc]
            for student, teachers in self.layers.items()
        }

    def prepare(self, model: nn.Module, graph: Graph) -> "DistillationPart":
        """Run both models once on the example inputs, and watch the student from then on.

        Raises:
            InputError: a named module does not exist or does not run, the teacher does not accept the inputs,
                or outputs that are to be compared differ in shape.
        """
        links = self.links
        taught = tuple(dict.fromkeys(name for linked in links.values() for name in linked))
        for name, linked in links.items():
            if not linked:
                raise InputError(f"layers links {name!r} to no module of the teacher; name one or several")
        _require_modules(model, links, "model")
        _require_modules(self.teacher, taught, "teacher")
        own = self.teacher is model
        teacher = _Teacher(copy.deepcopy(model) if own else self.teacher, taught, follows=own)
        widths = _checked_shapes(self, model, teacher, graph.example)
        adapters = Adapters(widths, axis=self.axis, rate=self.adapter_rate, seed=self.seed)
        return DistillationPart(self, Observer(model, links), teacher, adapters)


class DistillationPart:
    """A `Distillation` at work on one model."""

    def __init__(self, spec: Distillation, student: Observer, teacher: "_Teacher", adapters: Adapters) -> None:
        self._spec = spec
        self._links = spec.links
        self._student = student
        self._teacher = teacher
        self._adapters = adapters
        # The output that the last penalty belongs to, and the penalty.
        self._known: tuple[Tensor, Tensor] | None = None

    def penalty(self) -> Tensor:
        """The term for the last training pass.

        Raises:
            InputError: there was none since the last step, or a linked module did not run in it.
        """
        output, inputs = self._student.output, self._student.inputs
        if output is None or inputs is None:
            raise InputError(
                "distillation has seen no training pass of the model since the last step: call model(...) in training "
                "mode (model.train()) with gradients on, and not model.forward(...), before penalty()"
            )
        if self._known is not None and self._known[0] is output:
            return self._known[1]
        wanted, taught = self._teacher(inputs, output.device)
        # The differences are taken in full precision, whatever the models run in.
        with torch.autocast(output.device.type, enabled=False):
            value = self._term(output, wanted) + self._spec.layer_weight * self._layers(taught)
        if torch.is_grad_enabled():
            self._known = (output, value)
            self._adapters.count()
        return value

    def step(self) -> None:
        """Train the linear maps, and let the pass go."""
        self._adapters.step()
        self._known = None
        self._student.clear()

    def finalize(self) -> Plan:
        """Take the hooks away; nothing is to be changed in the model."""
        self._known = None
        self._student.remove()
        return Plan()

    def _term(self, output: Tensor, wanted: Tensor) -> Tensor:
        if not self._spec.weight:
            return output.new_zeros(())
        return self._spec.weight * soft_target_loss(output, wanted, self._spec.temperature, self._spec.axis)

    def _layers(self, taught: Mapping[str, Tensor]) -> Tensor | float:
        total: Tensor | float = 0.0
        for name, linked in self._links.items():
            if name not in self._student.layers:
                raise InputError(
                    f"the model's {name!r} put out no tensor with gradients in the last training pass; was it skipped, "
                    "or run under reentrant checkpointing? name another layer"
                )
            student = self._student.layers[name]
            pairs = [(name, other) for other in linked]
            distances = [self._distance(self._adapters.adapted(pair, student), taught[pair[1]]) for pair in pairs]
            chosen = nearest(distances)
            self._teach_adapter(pairs[chosen], student, taught)
            total = total + distances[chosen]
        return total

    def _teach_adapter(self, pair: Pair, student: Tensor, taught: Mapping[str, Tensor]) -> None:
        if self._adapters.trained and self._adapters.has(pair) and torch.is_grad_enabled():
            adapted = self._adapters.adapted(pair, student, learning=True)
            self._adapters.learn(pair, self._distance(adapted, taught[pair[1]]))

    def _distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self._spec.loss == "mse":
            return mean_square(student, teacher)
        return soft_target_loss(student, teacher, self._spec.temperature, self._spec.axis)


class _Teacher:
    """The frozen teacher: inputs of the student in, tensors on the student's device out."""

    def __init__(self, model: nn.Module, names: Sequence[str], *, follows: bool) -> None:
        self._model = model
        self._names = names
        # A copy of our own goes where the student goes.
        self._follows = follows
        self._told = False

    def __call__(self, inputs: Inputs, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
        if self._follows:
            self._model.to(device)
        with eval_mode(self._model), torch.no_grad():
            output, layers = observed(self._model, self._names, self._fitted(inputs, device))
        if output is None:
            raise InputError(f"the teacher, a {type(self._model).__name__}, puts out no tensor")
        return output.to(device), {name: layer.to(device) for name, layer in layers.items()}

    def _fitted(self, inputs: Inputs, device: torch.device) -> Inputs:
        """The inputs on the teacher's device, floating ones in its precision if it has just one."""
        tensors = [tensor for tensor in self._model.parameters() if tensor.is_floating_point()]
        if not tensors:
            return inputs
        home = tensors[0].device
        if home != device and not self._told:
            self._told = True
            log.warning(
                "the teacher is on %s and the student on %s: inputs and outputs are copied at every step; "
                "move it with teacher.to(%r)",
                home, device, str(device),
            )  # fmt: skip
        dtypes = {tensor.dtype for tensor in tensors}

        def fit(tensor: Tensor) -> Tensor:
            alike = tensor.is_floating_point() and len(dtypes) == 1
            return tensor.to(home, tensors[0].dtype) if alike else tensor.to(home)

        return inputs.mapped(fit)


def _require_modules(model: nn.Module, names: Mapping[str, Any] | Sequence[str], noun: str) -> None:
    modules = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    for name in names:
        if name not in modules:
            close = difflib.get_close_matches(name, modules, n=3)
            hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "see model.named_modules()"
            raise InputError(f"layers names {name!r}, but the {noun} has no such module; {hint}")


def _checked_shapes(
    spec: Distillation, model: nn.Module, teacher: _Teacher, example: Inputs
) -> dict[Pair, tuple[int, int]]:
    """The pairs of layers whose channels differ, with both numbers; all else must agree."""
    with eval_mode(model), torch.no_grad():
        output, layers = observed(model, spec.links, example)
    if output is None:
        raise InputError(
            f"the model, a {type(model).__name__}, puts out no tensor that a teacher's could be compared to"
        )
    try:
        wanted, taught = teacher(example, output.device)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"the teacher does not run on the model's example inputs: {type(error).__name__}: {error}; it must "
            "take the same arguments; wrap it in a module that adapts them"
        ) from error
    _require_real(spec, output, wanted, layers | taught)
    if spec.weight and output.shape != wanted.shape:
        raise InputError(
            f"the model puts out {list(output.shape)} and the teacher {list(wanted.shape)}; "
            "distill between equal classes, or link layers and set weight=0"
        )
    widths = {}
    for name, linked in spec.links.items():
        for other in linked:
            for noun, wanted_name, found in (("model", name, layers), ("teacher", other, taught)):
                if wanted_name not in found:
                    raise InputError(f"the {noun}'s {wanted_name!r} puts out no tensor on the example inputs")
            sizes = _channels(layers[name].shape, taught[other].shape, spec.axis)
            if sizes is None:
                raise InputError(
                    f"the model's {name!r} puts out {list(layers[name].shape)} and the teacher's {other!r} "
                    f"{list(taught[other].shape)}; only the axis of channels (axis={spec.axis}) may differ"
                )
            if sizes[0] != sizes[1]:
                widths[name, other] = sizes
    return widths


def _require_real(spec: Distillation, output: Tensor, wanted: Tensor, layers: Mapping[str, Tensor]) -> None:
    """Raises InputError where complex numbers would be compared as logits, or as features."""
    if spec.weight and (output.is_complex() or wanted.is_complex()):
        raise InputError(
            "the model or the teacher returns complex numbers, which are no logits: link layers and set weight=0, or "
            "wrap it in a module that returns real numbers"
        )
    found = [name for name, layer in layers.items() if layer.is_complex()]
    if found:
        raise InputError(f"{found[0]!r} puts out complex numbers, which are not compared; link other layers")


def _channels(student: torch.Size, teacher: torch.Size, axis: int) -> tuple[int, int] | None:
    """Both sizes along ``axis``; None where any other axis differs."""
    rank = len(student)
    if rank != len(teacher) or not -rank <= axis < rank:
        return None
    place = axis % rank
    if student[:place] + student[place + 1 :] != teacher[:place] + teacher[place + 1 :]:
        return None
    return student[place], teacher[place]
