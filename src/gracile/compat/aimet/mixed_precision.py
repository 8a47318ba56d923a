"""What ``aimet_torch.mixed_precision`` holds: a width for each layer's weights, and one for all activations."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from glob import escape
from math import inf
from os import PathLike
from pathlib import Path
from typing import Any

from gracile.compat.aimet.common.quantization import CallbackFunc, QuantizationDataType
from gracile.compat.aimet.quant_config import bit_width
from gracile.compat.aimet.quantsim_model import QuantizationSimModel
from gracile.errors import InputError, TargetError
from gracile.export.files import write_bytes
from gracile.inputs import ExampleInputs
from gracile.quant.precision import MixedPrecision, mixed_precision
from gracile.scoring import score_of

__all__ = ["Choice", "choose_mixed_precision"]

# ((bits of activations, type), (bits of weights, type))
Candidate = tuple[tuple[int, Any], tuple[int, Any]]
_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Choice:
    """One assignment that was tried."""

    # Bit operations as a share of those with the widest candidates everywhere, and the score.
    relative_bit_ops: float
    score: float
    # The bits of all activations.
    activations: int
    # Layer -> the bits of its weights; empty where all have the one width that there is for these activations.
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
    halving, in four rounds.  Each width of activations among the candidates is tried so, for all layers at once, from
    the widest on, and the assignment with the fewest bit operations taken.  ``sim.model`` is then that simulation, with
    its ranges set.

    Args:
        candidates: pairs ((bits of activations, type), (bits of weights, type)); two of them or more.
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
    groups = _checked(candidates)
    search = _Search(sim, dummy_input, eval_callback_for_phase1, eval_callback_for_phase2, forward_pass_callback,
                     widest=max(bits * max(widths) for bits, widths in groups.items()))  # fmt: skip
    sim.set_widths(max(groups), {}, max(groups[max(groups)]))
    with sim.model.only(weights=False, activations=False):
        floating = score_of(eval_callback_for_phase2, sim.model, "the model in floating point")
    least = -inf if allowed_accuracy_drop is None else floating - allowed_accuracy_drop
    kept = [search.fewest(bits, groups[bits], least) for bits in sorted(groups, reverse=True)]
    good = [choice for choice in kept if choice is not None]
    if not good:
        search.simulate(max(groups), {}, max(groups[max(groups)]))
        return None
    best = min(good, key=lambda choice: choice.relative_bit_ops)
    search.simulate(best.activations, best.weights, max(groups[best.activations]))
    _write(Path(results_dir), search.tried)
    return sorted(search.tried, key=lambda choice: choice.relative_bit_ops)


class _Search:
    """Assignments that are tried on a simulation, which has the last of them."""

    def __init__(
        self,
        sim: QuantizationSimModel,
        dummy_input: ExampleInputs,
        layers: CallbackFunc,
        whole: CallbackFunc,
        forward: CallbackFunc,
        *,
        widest: int,
    ) -> None:
        self._sim, self._example, self._layers, self._whole, self._forward = sim, dummy_input, layers, whole, forward
        self._widest = widest
        self._batches = sim.inputs_of(forward)
        # Width of activations -> the choice at the widest weights, which has the losses of all of them.
        self._measured: dict[int, MixedPrecision] = {}
        self.tried: list[Choice] = []

    def fewest(self, activations: int, widths: list[int], least: float) -> Choice | None:
        """The assignment with the fewest bit operations that was found to score ``least``; None without one."""
        choice = self._attempt(activations, widths, 1.0)
        if choice is None or choice.score < least:
            return None
        if len(widths) == 1:
            return choice
        low, high = min(widths) / max(widths), 1.0
        narrow = self._attempt(activations, widths, low)
        if narrow is not None and narrow.score >= least:
            return narrow
        for _ in range(_ROUNDS):
            middle = (low + high) / 2
            found = self._attempt(activations, widths, middle)
            if found is not None and found.score >= least:
                choice, high = found, middle
            else:
                low = middle
        return choice

    def simulate(self, activations: int, bits: dict[str, int], others: int) -> None:
        """Give the simulation these widths, and its ranges."""
        self._sim.set_widths(activations, {escape(layer): value for layer, value in bits.items()}, others)
        self._sim.compute_encodings(self._forward.func, self._forward.func_callback_args)

    def _attempt(self, activations: int, widths: list[int], share: float) -> Choice | None:
        """The least loss at this share of the widest weights' bit operations; None where none are so few."""
        bits: dict[str, int] = {}
        taken = 1.0
        if len(widths) > 1:
            try:
                found = self._losses(activations, widths).within(share)
            except TargetError:
                return None
            bits = {layer: int(name.removeprefix("int")) for layer, name in found.formats.items()}
            taken = found.cost / (found.budget / share)
        self.simulate(activations, bits, max(widths))
        score = score_of(self._whole, self._sim.model, "the mixed precision")
        self.tried.append(Choice(taken * activations * max(widths) / self._widest, score, activations, bits))
        return self.tried[-1]

    def _losses(self, activations: int, widths: list[int]) -> MixedPrecision:
        if activations not in self._measured:
            self._measured[activations] = mixed_precision(
                self._sim.original, self._example, calibration=self._batches, evaluate=self._layers,
                weights=[f"int{width}" for width in widths], activations=f"uint{activations}", bit_operations=1.0,
            )  # fmt: skip
        return self._measured[activations]


def _checked(candidates: Sequence[Candidate]) -> dict[int, list[int]]:
    """The widths of weights for each width of activations."""
    found: dict[int, set[int]] = {}
    for (output_bw, output_type), (param_bw, param_type) in candidates:
        if not {output_type, param_type} <= {QuantizationDataType.int, "int"}:
            raise InputError(f"candidates has {output_type!r} and {param_type!r}; only integers are simulated")
        found.setdefault(bit_width("candidates", output_bw), set()).add(bit_width("candidates", param_bw))
    if sum(map(len, found.values())) < 2:
        raise InputError(
            f"candidates is {candidates!r}; give two different pairs ((bits of activations, type), (bits of weights, "
            "type)) or more to choose from"
        )
    return {bits: sorted(widths) for bits, widths in found.items()}


def _write(folder: Path, tried: list[Choice]) -> None:
    rows = [{"relative_bit_ops": item.relative_bit_ops, "score": item.score, "activations": item.activations,
             "weights": item.weights} for item in tried]  # fmt: skip
    write_bytes(folder / "mixed_precision.json", json.dumps(rows, indent=1).encode())
