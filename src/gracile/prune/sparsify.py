"""Unstructured pruning: elements, blocks, rows or N of M within single tensors, as masks.

Masks leave the tensors as large as they are: a model gets smaller or faster only where whole channels go (`plan`), or
on a runtime with kernels for sparse weights.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from gracile.errors import InputError
from gracile.graph import tensors_of, ties_of
from gracile.inputs import require_seed
from gracile.maths.sparse import keep_balanced, keep_globally, keep_largest, keep_n_of_m
from gracile.patterns import matching, require_patterns
from gracile.plan import child
from gracile.prune.scores import Criterion, Scores, named, scores_of_units
from gracile.prune.units import Blocks
from gracile.prune.widths import require_fraction
from gracile.recipe import Scope

log = logging.getLogger(__name__)

# What goes as one: a weight, the weights of an output or an input, a block of these sizes along the first axes (-1 for
# a whole axis), or single weights so that N of M neighbours along the inputs stay, as "2:4".
Granularity: TypeAlias = Literal["element", "output", "input"] | str | tuple[int, ...]

_N_OF_M = re.compile(r"(\d+):(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Masking:
    """How single tensors are masked; see `sparsify`.

    Raises:
        InputError: the granularity or the tile is none, or they do not go together.
    """

    granularity: Granularity = "element"
    # Every tile of these sizes along the last axes loses the same number of elements.
    tile: tuple[int, ...] | None = None
    scope: Scope = "layer"
    # At most this share of a tensor goes.
    max_sparsity: float = 1.0

    def __post_init__(self) -> None:
        kind = self.granularity
        blocks = isinstance(kind, tuple) and kind and all(isinstance(size, int) and size for size in kind)
        if kind not in ("element", "output", "input") and not blocks and self.n_of_m is None:
            raise InputError(
                f"granularity is {kind!r}; it is 'element', 'output', 'input', the sizes of a block as (4, 1), or N of "
                "M as '2:4'; whole channels are removed by gracile.prune.plan"
            )
        if self.scope not in get_args(Scope):
            raise InputError(f"scope is {self.scope!r}; it is {' or '.join(map(repr, get_args(Scope)))}")
        share = self.max_sparsity
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise InputError(f"max_sparsity is {self.max_sparsity!r}; it is the most of a tensor that goes, in [0, 1]")
        if self.tile is not None and not (
            isinstance(self.tile, tuple) and self.tile and all(type(size) is int and size > 0 for size in self.tile)
        ):
            raise InputError(f"tile is {self.tile!r}; give the sizes of a tile along the last axes, as (1, 4)")
        if self.tile is not None and (kind != "element" or self.scope == "global"):
            raise InputError(f"tile={self.tile} balances elements within layers: it goes with granularity='element'")
        if self.n_of_m is not None and self.scope == "global":
            raise InputError(f"granularity={kind!r} is the same everywhere: it goes with scope='layer'")

    @property
    def n_of_m(self) -> tuple[int, int] | None:
        """How many of how many neighbours stay.

        Raises:
            InputError: not fewer stay than there are.
        """
        match = _N_OF_M.fullmatch(self.granularity) if isinstance(self.granularity, str) else None
        if match is None:
            return None
        kept, of = int(match[1]), int(match[2])
        if not 0 < kept < of:
            raise InputError(f"granularity={self.granularity!r} keeps {kept} of {of}; keep at least one, and fewer")
        return kept, of

    def blocks(self, tensor: str, value: Tensor, module: nn.Module) -> Blocks:
        """The units of the weight ``tensor`` of ``module``.

        Raises:
            InputError: blocks, tiles or N of M do not divide the tensor.
        """
        shape = tuple(value.shape)
        outputs = 1 if isinstance(module, _ConvTransposeNd) else 0
        if self.n_of_m is not None and shape[1 - outputs] % self.n_of_m[1]:
            raise InputError(
                f"granularity={self.granularity!r} needs inputs that {self.n_of_m[1]} divides, and {tensor} of the "
                f"shape {list(shape)} has {shape[1 - outputs]}; exclude its layer"
            )
        if self.tile is not None and (
            len(self.tile) > len(shape)
            or any(size < 1 or axis % size for axis, size in zip(shape[::-1], self.tile[::-1], strict=False))
        ):
            raise InputError(
                f"tiles of {list(self.tile)} do not divide {tensor} of the shape {list(shape)}; take sizes that divide "
                "its last axes, or exclude its layer"
            )
        match self.granularity:
            case "output":
                block = tuple(1 if axis == outputs else -1 for axis in range(len(shape)))
            case "input":
                block = tuple(1 if axis == 1 - outputs else -1 for axis in range(len(shape)))
            case tuple():
                block = self.granularity
            case _:
                block = (1,) * len(shape)
        return Blocks.of(tensor, shape, block, inputs=1 - outputs)

    def gone(
        self, units: Sequence[Blocks], scores: Mapping[str, Scores], sparsities: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Units' name -> True [count] for those that go at these sparsities.

        Raises:
            InputError: a global scope has several sparsities.
        """
        found = {item.name: torch.from_numpy(scores[item.name]) for item in units}
        if self.scope == "global":
            kept = keep_globally(
                [found[item.name] for item in units],
                [item.elements for item in units],
                self.one_of(sparsities),
                self.max_sparsity,
            )
            return {item.name: ~keep.flatten() for item, keep in zip(units, kept, strict=True)}
        return {
            item.name: ~self._kept(item, found[item.name], min(sparsities[item.name], self.max_sparsity)).flatten()
            for item in units
        }

    @staticmethod
    def one_of(sparsities: Mapping[str, float]) -> float:
        """The sparsity of all layers together; raises InputError where there are several."""
        several = set(sparsities.values())
        if len(several) > 1:
            raise InputError(f"scope='global' has one sparsity for all layers, not {sorted(several)}")
        return several.pop()

    def _kept(self, item: Blocks, scores: Tensor, sparsity: float) -> Tensor:
        if self.n_of_m is not None:
            kept, of = self.n_of_m
            # While the sparsity grows, more stay.
            staying = max(kept, of - int(of * sparsity + 1e-9))
            return keep_n_of_m(item.grid(scores).movedim(item.inputs, -1), staying, of).movedim(-1, item.inputs)
        if self.tile is not None:
            return keep_balanced(item.grid(scores), self.tile, sparsity)
        return keep_largest(scores, sparsity)


def sparsify(
    model: nn.Module,
    sparsity: float | Mapping[str, float] | None = None,
    *,
    granularity: Granularity = "element",
    tile: Sequence[int] | None = None,
    criterion: str | Criterion = "l1",
    scope: Scope = "layer",
    max_sparsity: float = 1.0,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    seed: int = 0,
    statistics: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Masks that keep the worthiest units of each weight.

    Args:
        model: left as it is; `gracile.mask` applies them, `speedup` makes a smaller model where they free channels.
        sparsity: the share of the units to mask: of every convolution and linear layer, or shell pattern -> sparsity
            for the modules of any kind with a weight that match one, later patterns winning.  Left out with N of M.
        granularity: "element", "output" (rows: the weights, and the bias, of an output), "input", the sizes of a block,
            or "N:M": N of M neighbours along the inputs stay.
        tile: with "element": every tile of these sizes along the last axes loses the same number (balanced sparsity).
        criterion: see `gracile.prune.plan`; of single elements "l1" is the magnitude (Han et al. 2015).
        scope: "layer" masks the same share of each layer, "global" the units of least worth in all.
        max_sparsity: at most this share of a layer goes.
        include: shell patterns of modules: the others stay as they are; all where left out.
        exclude: shell patterns of modules that stay as they are, even where included.
        statistics: for criteria that need data, from `gracile.prune.gather`.

    Returns:
        Parameter name -> True where values stay, in the parameter's shape; tied ones under their first name.

    Raises:
        InputError: an argument is wrong, or blocks do not divide a tensor.
    """
    require_seed(seed)
    if statistics is not None and not isinstance(statistics, Mapping):
        raise InputError(f"statistics is a {type(statistics).__name__}; give what gracile.prune.gather returns")
    # A list is as good as a tuple.
    tile = tuple(tile) if isinstance(tile, list) else tile
    masking = Masking(granularity=granularity, tile=tile, scope=scope, max_sparsity=max_sparsity)  # type: ignore[arg-type]
    shares = layer_sparsities(model, sparsity, masking, include=include, exclude=exclude)
    units = blocks_of(model, masking, shares)
    require_blocks_criterion(criterion, masking)
    scores = scores_of_units(model, None, units, criterion, seed, statistics)
    return keep_masks(model, units, masking, masking.gone(units, scores, shares))


def layer_sparsities(
    model: nn.Module,
    sparsity: float | Mapping[str, float] | None,
    masking: Masking,
    *,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
) -> dict[str, float]:
    """The weight's name -> the share of it that goes; tied weights once, under their first name.

    Raises:
        InputError: a sparsity is out of range, nothing matches, or a global scope has several sparsities.
    """
    require_patterns("include", () if include is None else include)
    require_patterns("exclude", exclude)
    if masking.n_of_m is not None:
        if sparsity is not None and not isinstance(sparsity, Mapping):
            raise InputError(f"granularity={masking.granularity!r} says the sparsity itself; leave sparsity out")
        sparsity = 1 - masking.n_of_m[0] / masking.n_of_m[1] if sparsity is None else sparsity
    if sparsity is None:
        raise InputError("give sparsity, the share of the weights to mask, as 0.5, or {'layer1.*': 0.5}")
    weighted = {path: module for path, module in model.named_modules() if _has_weight(module)}
    patterns = sparsity if isinstance(sparsity, Mapping) else {"*": sparsity}
    for pattern, value in patterns.items():
        require_fraction(f"sparsity[{pattern!r}]" if isinstance(sparsity, Mapping) else "sparsity", value)
    usual = isinstance(sparsity, Mapping)
    names = [path for path, module in weighted.items() if usual or isinstance(module, nn.Linear | _ConvNd)]
    chosen, excluded = matching(patterns, names), matching(exclude, list(weighted))
    included = matching(("*",) if include is None else include, names)
    for pattern in (*(chosen.unmatched if usual else ()), *included.unmatched, *excluded.unmatched):
        log.warning("%r matches no layer with a weight", pattern)
    ties = ties_of(model)
    weights = {path: child(path, "weight") for path in weighted}
    first = {path: ties.get(name, name) for path, name in weights.items()}
    # What stays under one of its names stays under all.
    left = {first[path] for path in excluded.names}
    found = {
        first[path]: patterns[pattern]
        for path, pattern in reversed(chosen.names.items())
        if path in included.names and first[path] not in left
    }
    found = {name: found[name] for name in first.values() if name in found}
    if not found:
        raise InputError(
            f"no layer with a weight is left for sparsity={sparsity!r}, include={include!r} and "
            f"exclude={list(exclude)}; there are {', '.join(weighted) or 'none'}"
        )
    if masking.scope == "global":
        masking.one_of(found)
    return found


def _has_weight(module: nn.Module) -> bool:
    weight = tensors_of(module).get("weight")
    return isinstance(weight, nn.Parameter) and weight.ndim > 1


def blocks_of(model: nn.Module, masking: Masking, names: Iterable[str]) -> list[Blocks]:
    """The units of these weights."""
    tensors = tensors_of(model)
    return [masking.blocks(name, tensors[name], model.get_submodule(name.rpartition(".")[0])) for name in names]


def require_blocks_criterion(criterion: str | Criterion, masking: Masking) -> None:
    """Raises InputError where a criterion says nothing of the units."""
    chosen = named(criterion)
    if chosen.sees in ("batch_norm", "inputs", "input_products"):
        raise InputError(
            f"criterion={criterion!r} is about whole channels: take gracile.prune.plan, or 'l1' for elements"
        )
    if criterion == "fpgm" and masking.granularity not in ("output", "input"):
        raise InputError("criterion='fpgm' compares rows: take granularity='output', or 'l1' for elements")


def keep_masks(
    model: nn.Module, units: Iterable[Blocks], masking: Masking, gone: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Parameter name -> True where values stay; outputs take their bias along."""
    tensors = tensors_of(model)
    found = {}
    for item in units:
        value = tensors[item.tensor]
        zeros = item.removed(gone[item.name], {})[item.tensor]
        found[item.tensor] = (~zeros).expand(value.shape).clone()
        bias = item.tensor.removesuffix("weight") + "bias"
        if masking.granularity == "output" and bias in tensors and tensors[bias].numel() == item.count:
            found[bias] = ~zeros.flatten()
    return found


def sparsity_of(masks: Mapping[str, Tensor]) -> float:
    """The share of the masked tensors' elements that is zero.

    Raises:
        InputError: ``masks`` is no dictionary of tensors.
    """
    if not isinstance(masks, Mapping) or not all(isinstance(keep, Tensor) for keep in masks.values()):
        raise InputError(f"masks is a {type(masks).__name__}; give masks by name, as gracile.prune.sparsify does")
    total = sum(keep.numel() for keep in masks.values())
    return 1 - sum(int(keep.sum()) for keep in masks.values()) / total if total else 0.0
