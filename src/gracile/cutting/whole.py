"""The program of a whole model, with the literals that follow the batch size and the mode."""

import logging
from collections.abc import Callable

from torch import nn

from gracile.cutting.calls import Call
from gracile.cutting.programs import Parts, Writer, alike, growing_inputs, items_of, places_of
from gracile.errors import GracileError
from gracile.graph import Graph, capture, capture_training
from gracile.inputs import Inputs
from gracile.program import Program

log = logging.getLogger(__name__)


def whole_program(model: nn.Module, graph: Graph, rewritten: Callable[[Graph], Graph]) -> Program:
    """``graph``, a capture of ``model`` that ``rewritten`` has changed, as a Program for any batch size.

    Captures the model again with twice the batch and in training mode, to see which literals follow them.  A model
    that takes no other batch gets a program for the example's; one that runs other operators in training gets the
    program of evaluation, with its dropout on in training.

    Raises:
        PlanError: something in it cannot be written down.
    """
    inputs = graph.example
    call = Call(inputs.args, inputs.kwargs, plain=False)
    items = items_of(list(graph.calls), "", set())
    wide, growing = None, list[tuple[str, int, int, int]]()
    twice = _twice(model, inputs)
    if twice is not None:
        wide = alike(items, rewritten(twice[1]), "", set())
        other = Call(twice[0].args, twice[0].kwargs, plain=False)
        growing = growing_inputs(graph, call, other) if wide else []
    training = capture_training(model, inputs)
    parts = Parts(
        alone=graph,
        items=items,
        whole=items,
        wide=wide,
        train=None if training is None else alike(items, rewritten(training), "", set()),
        growth=growing[0] if growing else None,
        inputs=places_of(graph, call),
        growing=frozenset((name, axis) for name, axis, *_ in growing),
    )
    return Writer(parts, graph).program()


def _twice(model: nn.Module, inputs: Inputs) -> tuple[Inputs, Graph] | None:
    try:
        wide = inputs.repeated(2)
        return wide, capture(model, wide, training=False)
    except (GracileError, RuntimeError) as error:
        log.info("the model does not take twice the batch: %s", error)
        return None
