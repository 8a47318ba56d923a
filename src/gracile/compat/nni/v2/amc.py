"""NNI 2's AMCPruner."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

from torch import nn

from gracile.channels import ChannelGroup
from gracile.compat.nni.common.checking import count, hint
from gracile.compat.nni.common.dependency import ChannelDependency
from gracile.compat.nni.common.evaluator import Evaluator
from gracile.compat.nni.common.rules import output_axis
from gracile.compat.nni.v2.algorithms import STRUCTURED, parameters_of
from gracile.compat.nni.v2.annealing import total_of
from gracile.compat.nni.v2.iterating import IterativePruner, Result
from gracile.compat.nni.v2.trials import Layers, Trials
from gracile.cost import Metric, price
from gracile.errors import InputError
from gracile.pipeline.layer_shapes import producers, shapes_of
from gracile.plan import child
from gracile.prune.pricing import WidthPrice
from gracile.recipe import Search
from gracile.search.problem import Problem
from gracile.search.select import require_packages, select_jointly
from gracile.search_options import AMC

log = logging.getLogger(__name__)

_TARGETS: Mapping[str, Metric] = {"flops": "macs", "params": "params"}
# NNI's names of the agent's parameters -> those of `gracile.AMC`; the first two and warmup are taken apart.
_OPTIONS = {
    "lr_a": "actor_learning_rate",
    "lr_c": "critic_learning_rate",
    "discount": "discount",
    "bsize": "batch_size",
    "rmsize": "replay_size",
    "tau": "tau",
    "init_delta": "noise",
    "delta_decay": "noise_decay",
}
_UNUSED = ("window_length", "max_episode_length", "epsilon", "init_w", "n_worker", "output", "debug")


class AMCPruner(IterativePruner):
    """An agent learns each layer's sparsity by trying models, so that all together meet ``total_sparsity``.

    He et al., "AMC: AutoML for Model Compression and Acceleration on Mobile Devices", 2018, arXiv:1802.03494;
    `gracile.search.amc` says how, with an agent of stable-baselines3 (extra "rl").  Layers whose outputs are added
    lose the same ones, so that the target is really met.  Models are scored as masked, without training; the best is
    fine-tuned in the end.

    Args:
        total_episode: models to try.
        config_list: of one entry with ``total_sparsity``, the share of the whole model's MACs or parameters to lose.
        evaluator: scores, with an evaluation function, and has the ``dummy_input``.
        pruning_algorithm: l1, l2, fpgm, apoz, mean_activation or taylorfo.
        ddpg_params: NNI's names: hidden1, hidden2, lr_a, lr_c, warmup (episodes), discount, bsize, rmsize, tau,
            init_delta, delta_decay; the paper's values where left out.
        target: "flops" or "params".
        log_dir, keep_intermediate_result, pruning_params: as for `SimulatedAnnealingPruner`; the result is cut.
        seed: of the agent.

    Raises:
        InputError: an argument or an entry of the config_list is wrong.
        MissingExtraError: stable-baselines3 is not installed.
        TargetError: the layers cannot lose so much.
    """

    _allowed = STRUCTURED

    def __init__(
        self, total_episode: int, model: nn.Module, config_list: list[dict[str, Any]], evaluator: Evaluator,
        pruning_algorithm: str = "l1", log_dir: str | PathLike[str] | None = None,
        keep_intermediate_result: bool = False, ddpg_params: Mapping[str, Any] | None = None,
        pruning_params: Mapping[str, Any] | None = None, target: str = "flops", seed: int = 0,
    ) -> None:  # fmt: skip
        episodes = count("AMCPruner", "total_episode", total_episode)
        if target not in _TARGETS:
            raise InputError(f"target is {target!r}; it is 'flops' or 'params'")
        require_packages("amc")
        self._metric = _TARGETS[target]
        self._options = options_of(episodes, ddpg_params)
        self._seed = seed
        self._algorithm = pruning_algorithm
        together = {"mode": "dependency_aware", "dummy_input": getattr(evaluator, "dummy_input", None)}
        super().__init__(
            model, config_list, pruning_algorithm, {**parameters_of(pruning_params), **together}, evaluator,
            log_dir=log_dir, keep_intermediate_result=keep_intermediate_result, speedup=True,
        )  # fmt: skip
        self._require_evaluation()
        total_of(config_list)

    def _run(self, model: nn.Module) -> Result:
        evaluator = self._require_evaluation()
        pruner = self._make(model, self.config_list)
        # The search is about all layers of one entry, each with a sparsity of its own.
        pruner._masking.rules = tuple(replace(rule, global_group=None) for rule in pruner._masking.rules)
        layers = Layers(pruner)
        trials = Trials(layers, evaluator, finetune=False)
        pruner.unwrap_model()
        problem = priced(layers, evaluator.get_dummy_input(), self._metric, 1 - total_of(self.config_list))
        pruner.wrap_model()
        key = {"pruner": "amc", "algorithm": self._algorithm, "config_list": self.config_list}
        with trials.scores(layers.columns, self._log_dir, key) as scores:
            choice = select_jointly(problem, scores, Search(kind="amc", options=self._options), self._seed)
        pairs = zip(layers.columns, choice.levels, strict=True)
        ratios = layers.ratios({column.layer: int(column.sizes[level]) for column, level in pairs})
        trials.mask(ratios)
        masks, entries = pruner.get_masks(), layers.entries(ratios)
        pruner.unwrap_model()
        self._shrink(model, masks)
        evaluator.finetune()
        result = Result(0, model, {}, evaluator.score(), entries)
        self._note(result)
        return result


def priced(layers: Layers, dummy_input: Any, metric: Metric, bound: float) -> Problem:
    """The layers as the parts of a search that ends at this share of the whole model's cost."""
    model = layers.pruner.bound_model
    channels = ChannelDependency(model, dummy_input)
    graph, cost = channels.graph, WidthPrice(channels.graph, channels.groups)
    places = {graph.canonical(rule.name): place for place, rules in enumerate(layers.sets.values()) for rule in rules}
    writers = {
        group.name: _writers(channels, group, places) for group in channels.groups.groups
    }  # fmt: skip
    free = {group.name: group for group in channels.groups.groups if writers[group.name]}

    def joint(levels: Sequence[int]) -> int:
        kept = [
            int(column.sizes[level]) / int(column.sizes[-1])
            for column, level in zip(layers.columns, levels, strict=True)
        ]
        return cost(
            {name: round(group.channels * max(kept[place] for place in writers[name])) for name, group in free.items()},
            metric,
        )

    whole = [column.dense for column in layers.columns]
    columns = tuple(
        replace(column, costs=_alone(joint, whole, place, column.sizes, whole[place]))
        for place, column in enumerate(layers.columns)
    )
    total = joint(whole)
    first = [next((g for n, g in free.items() if place in writers[n]), None) for place in range(len(columns))]
    operations = price(graph).operations
    shapes = shapes_of(None if group is None else producers([group], operations)[0] for group in first)
    return Problem(
        columns=columns, fixed=0, bound=bound * total, total=total, metric=metric, joint=joint, shapes=shapes
    )


def _alone(joint: Any, whole: list[int], place: int, sizes: Any, dense: int) -> Any:
    """Costs with one part at each of its levels, the others whole."""
    found = sizes.copy()
    for level in range(dense + 1):
        found[level] = joint([*whole[:place], level, *whole[place + 1 :]])
    return found


def _writers(channels: ChannelDependency, group: ChannelGroup, places: Mapping[str, int]) -> tuple[int, ...]:
    """The parts that cut a channel group; none where a layer that is not masked writes it, too."""
    axes = {(member.tensor, member.axis) for member in group.members}
    weights = [
        channels.graph.canonical(child(name, "weight"))
        for name, module in channels.layers.items()
        if (channels.graph.canonical(child(name, "weight")), output_axis(module)) in axes
    ]
    if not all(weight in places for weight in weights):
        return ()
    return tuple(dict.fromkeys(places[weight] for weight in weights))


def options_of(episodes: int, given: Mapping[str, Any] | None) -> AMC:
    """NNI's ddpg_params as `gracile.AMC`.

    Raises:
        InputError: a name is unknown, or a value out of range.
    """
    parameters = parameters_of(given, "ddpg_params")
    found: dict[str, Any] = {"episodes": episodes}
    known = (*_OPTIONS, *_UNUSED, "hidden1", "hidden2", "warmup")
    for name, value in parameters.items():
        if name not in known:
            raise InputError(f"ddpg_params has {name!r}{hint(name, known)}; it takes {', '.join(known)}")
        if name in _UNUSED:
            log.warning("ddpg_params: %s has no use here", name)
        elif name in _OPTIONS:
            found[_OPTIONS[name]] = value
    if "hidden1" in parameters or "hidden2" in parameters:
        found["hidden_sizes"] = tuple(parameters.get(name, 300) for name in ("hidden1", "hidden2"))
    if "warmup" in parameters:
        found["warm_up"] = min(1.0, count("ddpg_params", "warmup", parameters["warmup"]) / episodes)
    return AMC(**found)
