"""What ``aimet_torch.mixed_precision`` holds: a width for each layer's weights."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from glob import escape
from os import PathLike
from pathlib import Path
from typing import Any

from gracile.compat.aimet.common.quantization import CallbackFunc, QuantizationDataType
from gracile.compat.aimet.quant_config import bit_width
from gracile.compat.aimet.quantsim_model import QuantizationSimModel
from gracile.errors import FileError, InputError, TargetError
from gracile.inputs import ExampleInputs
from gracile.quant.precision import mixed_precision
from gracile.scoring import score_of

__all__ = ["Choice", "choose_mixed_precision"]

# ((bits of activations, type), (bits of weights, type))
Candidate = tuple[tuple[int, Any], tuple[int, Any]]
_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Choice:
    """One assignment that was tried."""

    # Bit operations as a share of those with the widest candidate everywhere, and the score.
    relative_bit_ops: float
    score: float
    # Layer -> the bits of its weights.
    weights: dict[str, int]


def choose_mixed_precision(
    sim: QuantizationSimModel,
    dummy_input: ExampleInputs,
    candidates: Sequence[Candidate],
    eval_callback_for_phase1: CallbackFunc,
    eval_callback_for_phase2: CallbackFunc,
    allowed_accuracy_drop: float | None,
    results_dir: str | PathLike[str],
    clean_start: bool,  # noqa: ARG001 - AIMET's signature
    forward_pass_callback: CallbackFunc,
    use_all_amp_candidates: bool = False,  # noqa: ARG001
    phase2_reverse: bool = False,  # noqa: ARG001
    phase1_optimize: bool = True,  # noqa: ARG001
    amp_search_algo: Any = None,  # noqa: ARG001
) -> list[Choice] | None:
    """Give each layer's weights one of several widths, with as few bit operations as the accuracy allows; in place.

    A layer's loss in a width is what the score of phase 1 falls by with its weights alone in it; for a budget the least
    sum of losses is found exactly (`gracile.quant.mixed_precision`); and the least budget that keeps the accuracy by
    halving, in four rounds.  ``sim.model`` is then that simulation, with its ranges set.

    Args:
        candidates: one width of activations for all, and two widths or more of weights.
        eval_callback_for_phase1: scores layers.
        eval_callback_for_phase2: scores whole assignments.
        allowed_accuracy_drop: how far the score may fall from that in floating point; None takes the fewest bit
            operations.
        results_dir: ``mixed_precision.json`` is written there.
        clean_start, use_all_amp_candidates, phase2_reverse, phase1_optimize, amp_search_algo: have no effect.

    Returns:
        What was tried, by bit operations; None where even the widest candidate falls too far, which ``sim`` then has.

    Raises:
        InputError: the candidates are wrong, or ``forward_pass_callback`` does not run the model.
        EvaluationError: a callback failed.
    """
    activations, widths = _checked(candidates)
    sim.set_widths(activations, {}, max(widths))
    batches = sim.inputs_of(forward_pass_callback)
    tried: list[Choice] = []

    def attempt(share: float) -> bool:
        try:
            found = mixed_precision(
                sim.original, dummy_input, calibration=batches, evaluate=eval_callback_for_phase1,
                weights=[f"int{bits}" for bits in widths], activations=f"uint{activations}", bit_operations=share,
            )  # fmt: skip
        except TargetError:
            return False
        bits = {layer: int(name.removeprefix("int")) for layer, name in found.formats.items()}
        most = found.budget / share
        sim.set_widths(activations, {escape(layer): value for layer, value in bits.items()}, max(widths))
        sim.compute_encodings(forward_pass_callback.func, forward_pass_callback.func_callback_args)
        score = score_of(eval_callback_for_phase2, sim.model, "the mixed precision")
        tried.append(Choice(found.cost / most, score, bits))
        return allowed_accuracy_drop is None or score >= floating - allowed_accuracy_drop

    with sim.model.only(weights=False, activations=False):
        floating = score_of(eval_callback_for_phase2, sim.model, "the model in floating point")
    low, high = min(widths) / max(widths), 1.0
    if not attempt(high):
        return None
    if attempt(low):
        high = low
    else:
        for _ in range(_ROUNDS):
            middle = (low + high) / 2
            low, high = (low, middle) if attempt(middle) else (middle, high)
        attempt(high)
    _write(Path(results_dir), tried)
    return sorted(tried, key=lambda choice: choice.relative_bit_ops)


def _checked(candidates: Sequence[Candidate]) -> tuple[int, list[int]]:
    """The width of activations, and those of weights."""
    activations, widths = set(), set()
    for (output_bw, output_type), (param_bw, param_type) in candidates:
        if not {output_type, param_type} <= {QuantizationDataType.int, "int"}:
            raise InputError(f"candidates has {output_type!r} and {param_type!r}; only integers are simulated")
        activations.add(bit_width("candidates", output_bw))
        widths.add(bit_width("candidates", param_bw))
    if len(activations) != 1 or len(widths) < 2:
        raise InputError(
            f"candidates has activations of {sorted(activations)} bits and weights of {sorted(widths)}; give one "
            "width of activations for all, and two or more of weights"
        )
    return activations.pop(), sorted(widths)


def _write(folder: Path, tried: list[Choice]) -> None:
    rows = [{"relative_bit_ops": item.relative_bit_ops, "score": item.score, "weights": item.weights} for item in tried]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "mixed_precision.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    except OSError as error:
        raise FileError(f"{folder} cannot be written: {error}") from error
