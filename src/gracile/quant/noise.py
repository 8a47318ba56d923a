"""What the papers of few bits draw in training: gradients of few bits (DoReFa), and signs at random (BNN)."""

from dataclasses import is_dataclass, replace
from typing import TypeVar

from gracile.errors import InputError
from gracile.quant.trained import Binary, DoReFa, Noise, TrainedQuantizer
from gracile.simulation import Simulation

_Kind = TypeVar("_Kind", bound=TrainedQuantizer)


def quantize_gradients(simulation: Simulation, bits: int, *, seed: int = 0) -> None:
    """Let the gradients of a simulation that `QuantizedTraining` trains by "dorefa" have ``bits`` bits, in place.

    The gradient that reaches a layer through the activation behind it is rounded, at random so that it is right in the
    mean, to 2^bits levels between plus and minus the largest of its example (Zhou et al. 2016, arXiv:1606.06160).  It
    happens where activations are quantized, in training alone.  The authors give gradients more bits than activations,
    and activations no fewer than weights: 1, 2 and 6 for weights, activations and gradients.

    Args:
        bits: 1 to 16.
        seed: the same seed draws the same noise, and a state_dict goes on where it stood.

    Raises:
        InputError: an argument is wrong, or the simulation trains no activation by "dorefa".
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 16:
        raise InputError(f"bits is {bits!r}; give 1 to 16 bits for gradients")
    found = {name: item for name, item in _trained(simulation, DoReFa, seed).items() if item.role == "activation"}
    if not found:
        raise InputError(
            "gradients are quantized where DoReFa's activations are, and this simulation has none in training: "
            "quantize with activations='uint4' or so, and prepare QuantizedTraining('dorefa') first"
        )
    for place, item in enumerate(found.values()):
        item.gradient_bits, item.noise = bits, _noise(item, seed, place)
    _note(simulation, gradient_bits=bits, seed=seed)


def draw_signs(simulation: Simulation, *, seed: int = 0) -> None:
    """Draw the signs of a simulation that `QuantizedTraining` trains by "bnn" at random in training, in place.

    1 is drawn with the probability clip((x + 1) / 2, 0, 1) (Hubara et al. 2016, arXiv:1602.02830); in evaluation, and
    where the training ends, signs are those of the values.

    Args:
        seed: the same seed draws the same signs, and a state_dict goes on where it stood.

    Raises:
        InputError: ``seed`` is wrong, or the simulation trains nothing by "bnn".
    """
    found = _trained(simulation, Binary, seed)
    if not found:
        raise InputError("nothing is binary here: prepare QuantizedTraining('bnn') first")
    for place, item in enumerate(found.values()):
        item.noise = _noise(item, seed, place)
    _note(simulation, draw_signs=True, seed=seed)


def _trained(simulation: Simulation, kind: type[_Kind], seed: int) -> dict[str, _Kind]:
    if not isinstance(simulation, Simulation):
        raise InputError(f"simulation is a {type(simulation).__name__}; make one with gracile.quantize")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"seed is {seed!r}; give a whole number from 0")
    return {name: item for name, item in simulation.named_quantizers().items() if isinstance(item, kind)}


def _note(simulation: Simulation, **options: object) -> None:
    """Let what trains the simulation say so: it is saved with it."""
    spec = simulation.quantized_training
    if is_dataclass(spec) and not isinstance(spec, type):
        simulation.quantized_training = replace(spec, **options)


def _noise(item: TrainedQuantizer, seed: int, place: int) -> Noise:
    return Noise(seed, place).to(item.scale.device)
