"""Real sums in front of a layer norm as Sum: onnxruntime joins an Add with its LayerNormalization to
SkipLayerNormalization, and its CPU kernel of that takes about five times as long as the two do apart
(``bench/quant_speed.py`` has BERT's share of it).
"""

from typing import Any


def keep_sums_apart(proto: Any) -> None:
    """Turn each Add whose result a LayerNormalization reads into Sum, which computes the same and is not joined."""
    normed = {node.input[0] for node in proto.graph.node if node.op_type == "LayerNormalization"}
    for node in proto.graph.node:
        if node.op_type == "Add" and not node.domain and node.output[0] in normed:
            node.op_type = "Sum"
