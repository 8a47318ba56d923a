"""LSTM, GRU and plain recurrent layers, whole or one step at a time."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gracile.channels.fields import Field, Value, along, forbid_axes, single
from gracile.channels.ties import Labels
from gracile.channels.walk import Arguments, NoRuleError, Result, Rule, Walk, operator, place
from gracile.graph import Node

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def _layers(walk: Walk, node: Node, arguments: Arguments) -> Result:
    """All layers and directions share one hidden size, so that they are cut at the same positions."""
    if "params" not in arguments or "batch_sizes" in arguments:
        raise NoRuleError("packed sequences")
    directions = 2 if arguments["bidirectional"] else 1
    parameters = [walk.value(ref) for ref in arguments["params"]]
    count = len(parameters) // (directions * arguments["num_layers"])
    steps = [parameters[start : start + count] for start in range(0, len(parameters), count)]
    gates = _GATES[operator(node)]
    features = _features(walk, node, walk.value(arguments["input"]))
    first: tuple[Labels, Labels] | None = None
    for index in range(0, len(steps), directions):
        outputs = []
        for step in steps[index : index + directions]:
            hidden, output = _step(walk, node, gates, features, step, bool(arguments["has_biases"]))
            first = first or (hidden, output)
            walk.ties.tie(first[0], hidden)
            walk.ties.tie(first[1], output)
            outputs.append(output)
        features = np.concatenate(outputs)
    assert first is not None
    _tie_states(walk, node, arguments["hx"], first)
    states = (first[1], first[0]) if gates == 4 else (first[1],)
    results = zip(node.output, (features, *states), strict=True)
    return tuple(_last(spec.shape, labels) for spec, labels in results)


def _cell(walk: Walk, node: Node, arguments: Arguments) -> Result:
    gates = _GATES[operator(node).removesuffix("_cell")]
    biases = [walk.value(arguments[name]) for name in ("b_ih", "b_hh") if arguments[name] is not None]
    step = [walk.value(arguments["w_ih"]), walk.value(arguments["w_hh"]), *biases]
    features = _features(walk, node, walk.value(arguments["input"]))
    hidden, output = _step(walk, node, gates, features, step, bool(biases))
    _tie_states(walk, node, arguments["hx"], (hidden, output))
    outputs = node.output if isinstance(node.output, tuple) else (node.output,)
    results = tuple(_last(spec.shape, hidden) for spec in outputs)
    return results if isinstance(node.output, tuple) else results[0]


def _features(walk: Walk, node: Node, data: Value) -> Labels:
    data = forbid_axes(data, range(data.rank - 1), f"a step or example of {place(node)}", walk.ties)
    return single(data, -1, place(node), walk.ties)


def _step(
    walk: Walk, node: Node, gates: int, features: Labels, step: Sequence[Value], biased: bool
) -> tuple[Labels, Labels]:
    """Tie one layer and direction; returns the labels of its cells and of its output.

    ``step`` is [weights of the input, of the hidden state, two biases if ``biased``, projection if there is one].
    """
    op, ties = place(node), walk.ties
    matrices = step[:2]
    vectors = step[2:4] if biased else []
    ties.tie(features, single(matrices[0], 1, op, ties))
    rows = [single(value, 0, op, ties).reshape(gates, -1) for value in (*matrices, *vectors)]
    hidden = rows[0][0]
    for labels in rows:
        ties.tie(labels, hidden)
    output = hidden
    projection = step[len(matrices) + len(vectors) :]
    if projection:
        ties.tie(hidden, single(projection[0], 1, op, ties))
        output = single(projection[0], 0, op, ties)
    ties.tie(output, single(matrices[1], 1, op, ties))
    return hidden, output


def _tie_states(walk: Walk, node: Node, states: Any, labels: tuple[Labels, Labels]) -> None:
    """Initial states: output first, cells second."""
    given = states if isinstance(states, list | tuple) else [states]
    for ref, expected in zip(given, reversed(labels), strict=False):
        value = forbid_axes(walk.value(ref), range(walk.value(ref).rank - 1), f"a state of {place(node)}", walk.ties)
        walk.ties.tie(single(value, -1, place(node), walk.ties), expected)


def _last(shape: tuple[int, ...], labels: Labels) -> Value:
    return Value(shape, (Field(along(labels, len(shape) - 1, len(shape))),) if labels.size > 1 else ())


RULES: dict[str, Rule] = {
    **dict.fromkeys(_GATES, _layers),
    **{f"{name}_cell": _cell for name in _GATES},
}
