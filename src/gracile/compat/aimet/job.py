"""AIMET's parameters, read and checked, in gracile's words."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from gracile.compat.aimet.common.defs import (
    CompressionScheme,
    CostMetric,
    GreedySelectionParameters,
    RankSelectScheme,
    TarRankSelectionParameters,
    ratio_of,
)
from gracile.compat.aimet.defs import (
    ChannelPruningParameters,
    CompressionMode,
    ManualRatios,
    ModuleCompRatioPair,
    SelectParams,
    SpatialSvdParameters,
    WeightSvdParameters,
)
from gracile.compat.aimet.evaluations import Evaluations, Method, read
from gracile.compat.aimet.module_names import ModuleNames
from gracile.compat.aimet.samples import Samples
from gracile.cost import Metric
from gracile.errors import InputError
from gracile.maths.factorize import Scheme

_SCHEMES: dict[CompressionScheme, tuple[Method, type[Any]]] = {
    CompressionScheme.weight_svd: ("weight_svd", WeightSvdParameters),
    CompressionScheme.spatial_svd: ("spatial_svd", SpatialSvdParameters),
    CompressionScheme.channel_pruning: ("channel_pruning", ChannelPruningParameters),
}
_METRICS: dict[CostMetric, Metric] = {CostMetric.mac: "macs", CostMetric.memory: "params"}
_SELECTIONS: dict[RankSelectScheme, type[Any]] = {
    RankSelectScheme.greedy: GreedySelectionParameters,
    RankSelectScheme.tar: TarRankSelectionParameters,
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Job:
    """What one call asks for."""

    method: Method
    metric: Metric
    round_to: int
    # The names of the modules to ignore.
    ignored: tuple[str, ...] = ()
    # None in manual mode, which has ratios by layer name instead.
    select: SelectParams | None = None
    ratios: dict[str, float] = field(default_factory=dict)
    # What an earlier greedy selection has evaluated, and where that stands.
    saved: Evaluations | None = None
    saved_file: Path | None = None
    # What channel pruning rebuilds layers with.
    data: Samples | None = None

    @property
    def scheme(self) -> Scheme:
        """The method, which is no channel pruning."""
        assert self.method != "channel_pruning"
        return self.method


def parse(model: nn.Module, compress_scheme: Any, cost_metric: Any, parameters: Any) -> Job:
    """Read one call's parameters.

    Raises:
        InputError: one is of the wrong type or range, does not go with another, or names a module that is not
            part of ``model``.
        FileError: the saved evaluation dictionary cannot be read.
    """
    if compress_scheme not in _SCHEMES:
        raise InputError(f"compress_scheme is {compress_scheme!r}; it is a member of CompressionScheme")
    if cost_metric not in _METRICS:
        raise InputError(f"cost_metric is {cost_metric!r}; it is CostMetric.mac or CostMetric.memory")
    method, wanted = _SCHEMES[compress_scheme]
    if not isinstance(parameters, wanted):
        raise InputError(f"parameters is a {type(parameters).__name__}; {compress_scheme.name} takes {wanted.__name__}")
    multiplicity = parameters.multiplicity
    if isinstance(multiplicity, bool) or not isinstance(multiplicity, int) or multiplicity < 1:
        raise InputError(f"multiplicity is {multiplicity!r}; sizes land on its multiples, so it is an integer from 1")
    names = ModuleNames(model)
    params = _params(parameters)
    job = Job(method=method, metric=_METRICS[cost_metric], round_to=multiplicity, data=_data(parameters))
    if isinstance(params, ManualRatios):
        return replace(job, ratios=_ratios(names, params))
    select = _select(params)
    if isinstance(select, TarRankSelectionParameters) and method == "channel_pruning":
        raise InputError(
            "TarRankSelectionParameters select ranks, and channel pruning has none: give GreedySelectionParameters, "
            "or call gracile.compress(method='channel_pruning', search='tar', target=...)"
        )
    path = getattr(select, "saved_eval_scores_dict", None)
    return replace(
        job,
        ignored=tuple(names.name(module, "modules_to_ignore") for module in params.modules_to_ignore or ()),
        select=select,
        saved=None if path is None else read(path),
        saved_file=None if path is None else Path(path),
    )


def _data(parameters: Any) -> Samples | None:
    if not isinstance(parameters, ChannelPruningParameters):
        return None
    return Samples(parameters.data_loader, parameters.num_reconstruction_samples)


def _params(parameters: Any) -> Any:
    """The parameters of the mode, of the type that goes with it."""
    types = {CompressionMode.auto: parameters.AutoModeParams, CompressionMode.manual: parameters.ManualModeParams}
    if parameters.mode not in types:
        raise InputError(f"mode is {parameters.mode!r}; it is {type(parameters).__name__}.Mode.auto or .manual")
    if not isinstance(parameters.params, types[parameters.mode]):
        raise InputError(
            f"params is a {type(parameters.params).__name__}; in {parameters.mode.name} mode it is a "
            f"{type(parameters).__name__}.{parameters.mode.name.capitalize()}ModeParams"
        )
    return parameters.params


def _select(params: Any) -> SelectParams:
    select: SelectParams = params.select_params
    if not isinstance(select, GreedySelectionParameters | TarRankSelectionParameters):
        raise InputError(
            f"the selection parameters are a {type(select).__name__}; give GreedySelectionParameters or "
            "TarRankSelectionParameters"
        )
    scheme = getattr(params, "rank_select_scheme", None)
    if scheme is not None and not isinstance(select, _SELECTIONS.get(scheme, ())):
        raise InputError(
            f"rank_select_scheme is {scheme}, the select_params are {type(select).__name__}; RankSelectScheme.greedy "
            "goes with GreedySelectionParameters, tar with TarRankSelectionParameters"
        )
    return select


def _ratios(names: ModuleNames, params: ManualRatios) -> dict[str, float]:
    where = "list_of_module_comp_ratio_pairs"
    ratios: dict[str, float] = {}
    for pair in params.list_of_module_comp_ratio_pairs:
        if not isinstance(pair, ModuleCompRatioPair):
            raise InputError(f"{where} holds a {type(pair).__name__}; it takes ModuleCompRatioPair")
        name = names.name(pair.module, where)
        if name in ratios:
            raise InputError(f"{where} gives two ratios for {name or 'the model'}; leave one of them out")
        ratios[name] = 1.0 if pair.comp_ratio is None else ratio_of(pair.comp_ratio, f"the comp_ratio of {name}")
    if not ratios:
        raise InputError(f"{where} is empty; give at least one ModuleCompRatioPair(model.layer, 0.5)")
    return ratios
