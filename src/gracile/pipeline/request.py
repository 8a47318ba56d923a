"""The arguments of one `compress` call, checked before any work is done."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from gracile.auto_options import AUTO, Auto
from gracile.automatic import Training
from gracile.cost import METRICS, Cost, Measure, Metric, Pricing
from gracile.errors import InputError
from gracile.extras import extra
from gracile.inputs import require_flags, require_path, require_seed
from gracile.maths.quant_spec import INTEGERS, IntegerMethod
from gracile.patterns import require_patterns
from gracile.pipeline.forecast import Forecast
from gracile.pipeline.tuning import FineTune, FineTuneLayer
from gracile.prune.gathering import Loss
from gracile.prune.planning import require_criterion
from gracile.prune.scores import Criterion
from gracile.prune.widths import require_widths
from gracile.recipe import Scope, Search, Target, methods_of
from gracile.registered import OWN_METHODS
from gracile.scoring import Evaluate
from gracile.search import executors
from gracile.search.select import require_packages
from gracile.search_options import ExecutorKind
from gracile.split_options import Split
from gracile.store import Store
from gracile.timings import RUNTIMES, Runtime
from gracile.train import Recovery


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """What `compress` was asked for; see there."""

    evaluate: Evaluate
    evaluate_search: Evaluate
    target: Target | None
    # In the order in which they are carried out; integers, which come behind all of them, apart.
    methods: tuple[str, ...]
    integers: IntegerMethod | None
    search: Search
    criterion: str | Criterion
    loss: Loss | None
    scope: Scope
    ratios: Mapping[str, float] | None
    ratios_metric: Metric
    round_to: int | Literal["auto"]
    max_sparsity: float
    exclude: Sequence[str]
    fine_tune: FineTune | None
    fine_tune_layer: FineTuneLayer | None
    # Where there is no fine-tuning.
    recover: Recovery | None
    store: str | Path | None
    n_jobs: int
    executor: ExecutorKind
    seed: int
    # Where layers are to be timed alone, whatever the target.
    layer_latency: Runtime | None = None
    # Within a search for what no `Cost` counts, a latency or a metric of the user's own: how it is counted there, and
    # the bound in that unit.
    pricing: Pricing | None = None
    priced_bound: float | None = None
    # Of a trial for a latency target, which nothing is measured for.
    forecast: Forecast | None = None
    # Of a trial whose losses on the way to its target are to be told: how much the outputs depend on each layer.
    sensitivities: Mapping[str, float] | None = None
    # Whether there is calibration data.
    calibrated: bool = False
    # Whether the store may hold evaluations of other models and other data.
    shared_store: bool = False
    # How several methods share the target, and whether each is followed by training.
    split: Split = field(default_factory=Split)
    training: Training = "each"
    # How often the user's training is called each time.
    tunings: int = 1
    # Where the methods are to be found; `methods` is empty until then.
    auto: Auto | None = None
    # A store in memory that the stages of one call share where no file is given.
    _shared: list[Store] = field(default_factory=list, repr=False)

    @property
    def metric(self) -> Metric:
        if self.target is None:
            # int8 alone: nothing else changes.
            return self.ratios_metric if self.methods else "bytes"
        return self.target.metric

    @property
    def measure(self) -> Measure:
        """What the search bounds: the metric, or the time of a call."""
        return self.metric if self.target is None else self.target.measure

    @property
    def timed(self) -> bool:
        return self.measure == "latency"

    def amount(self, cost: Cost) -> float:
        """How much of what the target bounds a model costs; of a latency its MACs."""
        return cost[self.metric] if self.target is None else self.target.amount(cost)

    def own_amount(self, cost: Cost) -> float | None:
        """The same by a metric of the user's own; None where the target is none of those."""
        return None if self.target is None or self.target.own is None else self.target.amount(cost)

    def total(self, before: Cost) -> int:
        """What the original costs, in the units of `bound`."""
        return before[self.metric] if self.pricing is None else self.pricing.total

    @property
    def unit(self) -> str:
        """The units of `bound` within a search, for messages."""
        if self.pricing is None:
            return self.metric
        return "ns of a call" if self.timed else f"billionths of {self.measure}"

    @property
    def method(self) -> str:
        return "+".join((*self.methods, *([] if self.integers is None else [self.integers])))

    def bound(self, before: Cost) -> float | None:
        """The largest admissible cost; None where the ratios are set by hand, and of a latency outside its search."""
        if self.pricing is not None or self.timed:
            return self.priced_bound
        return None if self.target is None else self.target.bound(before)

    @contextmanager
    def opened_store(self) -> Iterator[Store]:
        """The store of the evaluations."""
        if self.store is None:
            if not self._shared:
                self._shared.append(Store(None))
            yield self._shared[0]
            return
        with Store(self.store) as store:
            yield store


def checked(
    *,
    method: str,
    search: str | Search,
    criterion: str | Criterion,
    evaluate_search: Evaluate | None,
    calibrated: bool,
    recover: Literal["distill"] | Recovery | None,
    auto: Auto | None,
    split: Split | None = None,
    **arguments: Any,
) -> Request:
    """Everything that can be refused before any work is done."""
    for name in ("evaluate", "fine_tune", "fine_tune_layer"):
        value = arguments[name]
        if not callable(value) and not (value is None and name != "evaluate"):
            raise InputError(f"{name} is a {type(value).__name__}; give a function")
    options = _options(method, auto)
    named = methods_of(method) if options is None else ()
    methods = tuple(part for part in named if part not in INTEGERS)
    integers = next((part for part in INTEGERS if part in named), None)
    if options is not None:
        _require_auto(options, arguments, calibrated=calibrated)
    if integers:
        _require_integers(arguments["target"], arguments["ratios"], methods, calibrated=calibrated)
    if methods:
        _require_ratios(arguments["target"], arguments["ratios"], arguments["ratios_metric"], methods)
    _require_split(split, methods)
    require_patterns("exclude", arguments["exclude"])
    require_seed(arguments["seed"])
    require_path("store", arguments["store"])
    require_flags(shared_store=arguments.get("shared_store", False))
    if evaluate_search is not None and not callable(evaluate_search):
        raise InputError(f"evaluate_search is a {type(evaluate_search).__name__}; give a function")
    chosen: str | Criterion = criterion
    if criterion == "auto":
        chosen = "elimination" if calibrated else "l2"
    require_criterion(chosen, arguments["scope"], calibrated=calibrated, loss=arguments["loss"])
    require_widths(arguments["round_to"], arguments["max_sparsity"])
    _require_layer_latency(arguments.get("layer_latency"))
    chosen_search = search if isinstance(search, Search) else Search(kind=search)
    _require_executor(arguments["executor"], arguments["n_jobs"])
    if arguments["target"] is not None and (methods or options is not None):
        require_packages(chosen_search.kind)
    return Request(
        methods=methods,
        integers=integers,
        search=chosen_search,
        recover=_recovery(recover, arguments["fine_tune"], calibrated=calibrated),
        criterion=chosen if options is None else criterion,
        auto=options,
        split=split or Split(),
        calibrated=calibrated,
        evaluate_search=evaluate_search or arguments["evaluate"],
        **arguments,
    )


def _options(method: object, auto: object) -> Auto | None:
    """What is asked of the automatic search; None where there is none."""
    if auto is not None and not isinstance(auto, Auto):
        raise InputError(f"auto is {auto!r}; give gracile.Auto(...), as gracile.Auto(trials=20)")
    if method != AUTO:
        if auto is not None:
            raise InputError(f'auto goes with method="auto"; method is {method!r}')
        return None
    return auto or Auto()


def _require_split(split: object, methods: Sequence[str]) -> None:
    if split is not None and not isinstance(split, Split):
        raise InputError(f"split is {split!r}; give gracile.Split(...), as gracile.Split(values=(0.4, 0.6))")
    if split is not None and len(methods) < 2:
        raise InputError(
            "split says how several methods share a target; give it with several that change sizes, as in "
            "method='spatial_svd+channel_pruning'"
        )


def _require_auto(options: Auto, arguments: Mapping[str, Any], *, calibrated: bool) -> None:
    target = arguments["target"]
    if not isinstance(target, Target):
        raise InputError(
            f'method="auto" needs a target to split among methods, and target is {target!r}; give for example '
            "gracile.Target(macs=0.5)"
        )
    if arguments["ratios"] is not None:
        raise InputError('ratios by hand go with one method, and method is "auto"; leave them out')
    _require_guided(target, options.methods)
    if options.int8 and target.latency is not None:
        _require_runtime_of_integers(target)
    if target.latency is not None and options.weights != ("int8",):
        raise InputError(
            f"weights is {options.weights!r} with a latency as target; onnxruntime computes with weights of eight bits "
            "beside activations of eight, and turns those of four into floats first, which takes longer than int8: "
            'leave it at ("int8",), or give a target in bytes; method="prune+int4" measures what a file of int4 takes'
        )
    if options.int8 and not calibrated:
        raise InputError("Auto(int8=True) needs calibration data for the ranges of activations; give calibration")
    if options.fine_tune is not None and arguments["fine_tune"] is None:
        raise InputError("Auto(fine_tune=...) stands for fine_tune while pipelines are tried; give fine_tune, too")
    for criterion in options.criteria:
        for scope in options.scopes:
            require_criterion(criterion, scope, calibrated=calibrated, loss=arguments["loss"])
    extra("optuna", "auto", purpose='method="auto"')


def _require_layer_latency(runtime: object) -> None:
    if runtime is None:
        return
    if runtime not in RUNTIMES:
        raise InputError(
            f"layer_latency is {runtime!r}; give the runtime in which layers are timed, one of {', '.join(RUNTIMES)}, "
            "or None"
        )
    if runtime == "onnxruntime":
        for package in ("onnx", "onnxruntime"):
            extra(package, "export")


def _require_executor(executor: object, n_jobs: object) -> None:
    if executor not in get_args(ExecutorKind):
        raise InputError(f"executor is {executor!r}; it is one of {', '.join(get_args(ExecutorKind))}")
    if isinstance(n_jobs, bool) or not isinstance(n_jobs, int) or n_jobs < 1:
        raise InputError(f"n_jobs is {n_jobs!r}; give how many candidates are scored at a time, at least 1")
    executors.require_packages(executor)  # type: ignore[arg-type]


def _recovery(recover: object, fine_tune: object, *, calibrated: bool) -> Recovery | None:
    if recover is None:
        return None
    if recover != "distill" and not isinstance(recover, Recovery):
        raise InputError(f'recover is {recover!r}; give "distill", a gracile.train.Recovery(...), or None')
    if fine_tune is not None:
        raise InputError("give either fine_tune (your own training) or recover (without labels), and not both")
    if not calibrated:
        raise InputError("recover needs unlabelled inputs: give calibration")
    return recover if isinstance(recover, Recovery) else Recovery()


def _require_ratios(target: object, ratios: object, metric: object, methods: Sequence[str]) -> None:
    if metric not in METRICS:
        raise InputError(f"ratios_metric is {metric!r}; it is one of {', '.join(METRICS)}")
    if (target is None) == (ratios is None):
        raise InputError(
            "give either target (the ratios are found) or ratios (set by hand, as {'layer1.*': 0.5}), and not both"
            if target is not None
            else "give a target, for example target=gracile.Target(macs=0.5), or ratios by hand"
        )
    if target is not None and not isinstance(target, Target):
        raise InputError(f"target is {target!r}; give for example gracile.Target(macs=0.5)")
    if ratios is not None and not isinstance(ratios, Mapping):
        raise InputError(f"ratios is {ratios!r}; give a dictionary of patterns and ratios, as {{'layer1.*': 0.5}}")
    if ratios is not None and len(methods) > 1:
        raise InputError(
            f"ratios by hand go with one method, not with {'+'.join(methods)}; call compress once for each"
        )
    if target is not None:
        _require_guided(target, methods)


def _require_guided(target: Target, methods: Sequence[str]) -> None:
    own = [method for method in methods if method in OWN_METHODS]
    if target.latency is not None and own:
        raise InputError(
            f"a latency cannot guide {own[0]!r}, whose plans are not of layers that can be timed; give "
            "target=Target(macs=...), and measure the result with gracile.benchmark"
        )


def _require_integers(target: object, ratios: object, methods: Sequence[str], *, calibrated: bool) -> None:
    if not calibrated:
        raise InputError(
            "int8 needs calibration data for the ranges of activations; give calibration=[batch, ...], some hundred "
            "inputs without labels"
        )
    if isinstance(target, Target) and target.latency is not None:
        _require_runtime_of_integers(target)
    if methods:
        return
    if ratios is not None:
        raise InputError("ratios are of methods that change sizes, and int8 changes none; leave them out")
    if isinstance(target, Target) and target.measure not in ("bytes", "latency"):
        kept = {"macs": "MACs", "params": "parameters"}.get(target.measure, target.measure)
        raise InputError(
            f"int8 alone changes no {kept}: leave the target out, or put a method before it, as in 'prune+int8'"
        )
    if target is not None and not isinstance(target, Target):
        raise InputError(f"target is {target!r}; give for example gracile.Target(bytes=0.3), or leave it out")


def _require_runtime_of_integers(target: Target) -> None:
    if target.runtime != "onnxruntime":
        raise InputError(
            f"a model in int8 is measured as integers, which run in onnxruntime; runtime is {target.runtime!r}, where "
            'a simulation would be measured. Give Target(latency=..., runtime="onnxruntime"), or leave int8 out'
        )
