"""The modules of a model beside what has become of them."""

from collections.abc import Collection
from dataclasses import dataclass, replace

from gracile.cost.records import Cost, LayerCost


@dataclass(frozen=True, slots=True)
class LayerBeside:
    """One module before and after, with all that stands in its place."""

    before: LayerCost
    after: LayerCost


def layers_beside(before: Cost, after: Cost) -> tuple[LayerBeside, ...]:
    """The modules of the original in their order, then what is new, as the scales of quantizers."""
    originals = {layer.name: layer for layer in before.layers}
    found = {name: LayerBeside(layer, _nothing(layer)) for name, layer in originals.items()}
    for layer in after.layers:
        name = origin(layer.name, originals)
        pair = found.get(name) or LayerBeside(_nothing(layer), _nothing(layer))
        total = replace(
            pair.after,
            macs=pair.after.macs + layer.macs,
            params=pair.after.params + layer.params,
            bytes=pair.after.bytes + layer.bytes,
        )
        found[name] = replace(pair, after=total)
    return tuple(found.values())


def origin(module: str, originals: Collection[str]) -> str:
    """The module of the original that ``module`` is, or has taken the place of; itself where there is none."""
    owner = module
    while owner and owner not in originals:
        owner = owner.rpartition(".")[0]
    return owner if owner in originals else module


def _nothing(layer: LayerCost) -> LayerCost:
    return replace(layer, macs=0, params=0, bytes=0)
