"""Which integer format each module gets: defaults, overrides by pattern, what is left out."""

from collections.abc import Mapping, Sequence
from glob import escape
from typing import Any, TypeAlias

from gracile.errors import InputError
from gracile.graph import Graph, Node
from gracile.maths.quant_spec import PerBlock, PerChannel, QuantSpec, quant_spec
from gracile.patterns import matching, require_patterns

# "int8", a QuantSpec, or None: stays in floating point.
Format: TypeAlias = str | QuantSpec | None


def weight_spec(value: Format) -> QuantSpec | None:
    """A weight's format: by name one scale for each output channel, as many levels above as below zero.

    Raises:
        InputError: it is none.
    """
    if value is None or isinstance(value, QuantSpec):
        return value
    spec = quant_spec(value, granularity=PerChannel())
    return spec.model_copy(update={"narrow": spec.signed and spec.bits > 1})


def activation_spec(value: Format) -> QuantSpec | None:
    """An activation's format: by name one scale for the tensor.

    Raises:
        InputError: it is none, or asks for blocks.
    """
    spec = None if value is None else quant_spec(value)
    if spec is not None and isinstance(spec.granularity, PerBlock):
        raise InputError(f"activations={spec}: activations are quantized per tensor or per channel, not per block")
    return spec


class Formats:
    """The format of every module's weights and results.

    Raises:
        InputError: a format or an override is malformed.
    """

    def __init__(
        self,
        weights: Format,
        activations: Format,
        overrides: Mapping[str, Any] | None = None,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] = (),
    ) -> None:
        require_patterns("include", () if include is None else include)
        require_patterns("exclude", exclude)
        if overrides is not None and not isinstance(overrides, Mapping):
            raise InputError(
                f"overrides is {overrides!r}; give a dictionary of patterns and formats, as {{'head': None}}"
            )
        self._default: dict[str, QuantSpec | None] = {
            "weights": weight_spec(weights),
            "activations": activation_spec(activations),
        }
        self._overrides = {pattern: _override(pattern, given) for pattern, given in (overrides or {}).items()}
        self._include = None if include is None else tuple(include)
        self._exclude = tuple(exclude)

    @property
    def wants_activations(self) -> bool:
        """Whether any activation may be quantized."""
        given = [self._default, *self._overrides.values()]
        return any(item.get("activations") is not None for item in given)

    def includes(self, node: Node) -> bool:
        """Whether the node may be quantized; inputs are, for whatever included reads them."""
        names = _names(node)
        wanted = self._include is None or node.kind != "call" or bool(matching(self._include, names).names)
        return wanted and not matching(self._exclude, names).names

    def weights(self, node: Node) -> QuantSpec | None:
        """The format of the weight that ``node`` applies."""
        return self._of("weights", node)

    def activations(self, node: Node) -> QuantSpec | None:
        """The format of what ``node`` computes."""
        return self._of("activations", node)

    def of_input(self, node: Node, reader: Node) -> QuantSpec | None:
        """The format of an input of the model: the reader's, unless an override has just the input's name."""
        own = self._overrides.get(escape(node.op), {})
        return own["activations"] if "activations" in own else self.activations(reader)

    def unmatched(self, graph: Graph) -> tuple[str, ...]:
        """The patterns that match no module and no node."""
        names = list(dict.fromkeys(name for node in graph.nodes.values() for name in _names(node)))
        patterns = [*self._overrides, *(self._include or ()), *self._exclude]
        return matching(dict.fromkeys(patterns), names).unmatched

    def _of(self, kind: str, node: Node) -> QuantSpec | None:
        spec = self._default[kind]
        for pattern, given in self._overrides.items():
            if kind in given and matching([pattern], _names(node)).names:
                spec = given[kind]
        return spec


def _names(node: Node) -> list[str]:
    """What patterns match: the module that runs the node, and the node or input itself."""
    own = node.op if node.kind == "input" else node.name
    return [node.module, own] if node.kind == "call" else [own]


def _override(pattern: str, given: Any) -> dict[str, QuantSpec | None]:
    if given is None:
        return {"weights": None, "activations": None}
    makers = {"weights": weight_spec, "activations": activation_spec}
    if not isinstance(given, Mapping) or not given.keys() <= makers.keys():
        raise InputError(
            f"overrides[{pattern!r}] is {given!r}; give None to leave the modules in floating point, or a dictionary "
            "such as {'weights': 'int4', 'activations': None}"
        )
    return {kind: makers[kind](value) for kind, value in given.items()}
