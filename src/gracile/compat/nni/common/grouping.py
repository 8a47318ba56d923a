"""``auto_set_denpendency_group_ids``, spelled as NNI spells it."""

from typing import Any

from torch import nn

from gracile.compat.nni.common.checking import entries_of
from gracile.compat.nni.common.dependency import dependency_of
from gracile.compat.nni.common.selecting import SELECTORS, Modules
from gracile.errors import InputError
from gracile.graph import Graph, capture

_SELECTING = (*SELECTORS, "exclude_op_names", "exclude_op_names_re", "exclude_op_types")


class TracedModel:
    """What `concrete_trace` returns: the model and its captured program."""

    def __init__(self, model: nn.Module, graph: Graph) -> None:
        self.model = model
        self.graph = graph


def concrete_trace(root: nn.Module, concrete_args: Any, **_options: Any) -> TracedModel:
    """Stands for NNI's tracer: `gracile.capture`.

    Args:
        concrete_args: a tensor, a tuple of positional arguments or a dictionary of keywords.

    Raises:
        CaptureError: the model cannot be captured.
    """
    return TracedModel(root, capture(root, concrete_args))


def auto_set_denpendency_group_ids(
    model: nn.Module | TracedModel, config_list: list[dict[str, Any]], dummy_input: Any = None
) -> list[dict[str, Any]]:
    """The config_list with an entry for each module, in which modules that must lose the same outputs share a
    ``dependency_group_id`` and have an ``internal_metric_block`` that grouped convolutions allow.

    Takes both of NNI's forms: (model, config_list, dummy_input), and (what `concrete_trace` returned, config_list).

    Raises:
        InputError: no input is given, or an entry is wrong.
        CaptureError: the model cannot be captured.
    """
    if isinstance(model, TracedModel):
        graph, module = model.graph, model.model
    elif dummy_input is None:
        raise InputError("give dummy_input beside the model, or what concrete_trace(model, dummy_input) returns alone")
    else:
        graph, module = capture(model, dummy_input), model
    groups, runs = dependency_of(module, graph)
    modules, made = Modules(module), []
    for place, entry in enumerate(entries_of(config_list)):
        rest = {key: value for key, value in entry.items() if key not in _SELECTING}
        for name in modules.selected(f"config_list[{place}]", entry):
            single = {"op_names": [name], **rest}
            if not entry.get("exclude") and name in groups:
                single["dependency_group_id"] = groups[name]
                single["internal_metric_block"] = runs[name]
            made.append(single)
    return made
