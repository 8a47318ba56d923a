"""Recovery of a stage's model from the original, judged by the score."""

import copy
import logging
from collections.abc import Callable
from dataclasses import replace

from torch import nn

from gracile.pipeline.clock import Clock
from gracile.pipeline.request import Request
from gracile.report import Record
from gracile.scoring import score_of
from gracile.train import Recovery

log = logging.getLogger(__name__)


def recovered(
    request: Request, clock: Clock, model: nn.Module, score_after: float, teach: Callable[[], Record]
) -> tuple[Record, float]:
    """What ``teach``, which trains ``model`` in place, has done, and the score; what lowers the score is undone.

    That is for the search's function to say: the other one may look at data by which nothing is to be chosen.
    """
    before = copy.deepcopy(model.state_dict())
    apart = request.evaluate_search is not request.evaluate
    judged = score_of(request.evaluate_search, model, "the compressed model") if apart else score_after
    with clock("recover"):
        record = teach()
    with clock("evaluate"):
        found = score_of(request.evaluate_search, model, "the recovered model")
        score = score_of(request.evaluate, model, "the recovered model") if apart else found
    if found >= judged:
        return record, score
    log.warning("recovery lowered the score from %.6g to %.6g and was undone", judged, found)
    model.load_state_dict(before)
    undone = f"it lowered the score from {judged:.6g} to {found:.6g}; more data or a lower rate may help"
    return record.model_copy(update={"changed": (), "details": {**record.details, "undone": undone}}), score_after


def multiplied(options: Recovery, times: int) -> Recovery:
    """The options with so many times the epochs end to end."""
    return replace(options, epochs=times * options.epochs)
