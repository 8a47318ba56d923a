"""`operator_times`: what the time of one call of an ONNX file goes into, operator by operator."""

import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gracile.errors import FileError, InputError
from gracile.export.runtime import feeds, session
from gracile.graph import Graph
from gracile.inputs import ExampleInputs, Inputs, path_of
from gracile.text import table

# Threads and calls at most.
_MOST = 65_536
# Calls before those that count.
_WARM_UP = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorTime:
    """What all nodes of one operator take together."""

    operator: str
    # In onnxruntime's own graph, which has fused and inserted nodes.
    nodes: int
    # Seconds of one call of the file, the mean over the calls, and as a share of all nodes'.
    seconds: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorTimes:
    """What `operator_times` found, the slowest operator first; prints as a table."""

    path: Path
    operators: tuple[OperatorTime, ...]
    # Of one call, all nodes together; onnxruntime's own work between nodes is not in it.
    seconds: float

    def __getitem__(self, operator: str) -> OperatorTime:
        for found in self.operators:
            if found.operator == operator:
                return found
        raise KeyError(f"{operator!r}; there are {', '.join(found.operator for found in self.operators)}")

    def __str__(self) -> str:
        rows = [
            (found.operator, found.nodes, f"{1e3 * found.seconds:.3f}", f"{found.share:.1%}")
            for found in self.operators
        ]
        drawn = table(("operator", "nodes", "ms", "share"), rows, right=(1, 2, 3))
        return f"{self.path}: {1e3 * self.seconds:.3f} ms in operators\n{drawn}"


def operator_times(
    path: str | Path, example_inputs: ExampleInputs | Graph, *, threads: int = 1, repeats: int = 20
) -> OperatorTimes:
    """Run an ONNX file under onnxruntime's profiler and add up the time by operator.

    Two such tables say why a file is no faster than another: which operators integers or narrower layers have not
    reached, and what conversions (QuantizeLinear, DequantizeLinear, ReorderInput) came in.  The profiler costs time at
    each node, so that files of many small nodes take longer here than in `gracile.benchmark`.

    Args:
        path: the file.
        example_inputs: a tensor, a tuple of positional arguments, a dictionary of keywords, or a Graph.
        threads: that one operator may use.
        repeats: calls that count.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        InputError: an argument is wrong, or the file takes other inputs.
        FileError: the file cannot be read.
    """
    for name, value in (("threads", threads), ("repeats", repeats)):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST:
            raise InputError(f"{name} is {value!r}; it is a whole number from 1 to {_MOST}")
    path = path_of("path", path)
    inputs = example_inputs.example if isinstance(example_inputs, Graph) else Inputs.of(example_inputs)
    with tempfile.TemporaryDirectory() as folder:
        opened = session(path, threads=threads, profile=Path(folder) / "profile")
        fed = feeds(opened, inputs)
        for _ in range(_WARM_UP + repeats):
            opened.run(None, fed)
        try:
            events = json.loads(Path(opened.end_profiling()).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise FileError(f"onnxruntime left no profile of {path}: {error}; is the disk full?") from error
    return OperatorTimes(**_summed(events, repeats), path=path)


def _summed(events: Iterable[dict[str, Any]], repeats: int) -> dict[str, Any]:
    """The fields of `OperatorTimes` from onnxruntime's events: microseconds of each node in each call, in order."""
    times: dict[tuple[str, str], list[int]] = {}
    for event in events:
        operator = event.get("args", {}).get("op_name")
        if event.get("cat") == "Node" and operator and event["name"].endswith("_kernel_time"):
            times.setdefault((operator, event["name"]), []).append(event["dur"])
    seconds: dict[str, float] = {}
    nodes: dict[str, int] = {}
    for (operator, _), found in times.items():
        # Nodes without a name of their own share one: each call has as many of its events.
        number = max(1, round(len(found) / (_WARM_UP + repeats)))
        seconds[operator] = seconds.get(operator, 0.0) + 1e-6 * sum(found[-number * repeats :]) / repeats
        nodes[operator] = nodes.get(operator, 0) + number
    total = sum(seconds.values())
    operators = tuple(
        OperatorTime(
            operator=operator, nodes=nodes[operator], seconds=value, share=value / total if total else 0.0
        )
        for operator, value in sorted(seconds.items(), key=lambda pair: (-pair[1], pair[0]))
    )  # fmt: skip
    return {"operators": operators, "seconds": total}
