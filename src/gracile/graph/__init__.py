"""What a model *is*: a frozen view of the ATen program that ``torch.export`` captures.

Only this package captures programs and reads their nodes.  `capture` makes a `Graph`; `run` runs it, and `record`
runs it on batches and shows each wanted node's inputs and output to a visitor.
"""

from gracile.graph.capturing import capture, capture_training, export_program
from gracile.graph.clips import clip_range
from gracile.graph.nodes import Graph, Kind, Node, Ref, Spec, bare_name, refs_in, require_graph, users_of
from gracile.graph.running import Run, Substitute, Visitor, fingerprint, fitted, record, run, update_by_values
from gracile.graph.tensors import eval_mode, finite, require_copyable, require_finite, tensors_of, ties_of

__all__ = [
    "Graph",
    "Kind",
    "Node",
    "Ref",
    "Run",
    "Spec",
    "Substitute",
    "Visitor",
    "bare_name",
    "capture",
    "capture_training",
    "clip_range",
    "eval_mode",
    "export_program",
    "fingerprint",
    "finite",
    "fitted",
    "record",
    "refs_in",
    "require_copyable",
    "require_finite",
    "require_graph",
    "run",
    "tensors_of",
    "ties_of",
    "update_by_values",
    "users_of",
]
