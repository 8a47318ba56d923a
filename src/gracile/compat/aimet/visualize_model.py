"""What ``aimet_torch.visualize_model`` holds: the ranges of weights, drawn into HTML files."""

import logging
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TypeAlias

from torch import nn

from gracile.compat.aimet.module_names import ModuleNames
from gracile.compat.aimet.visualize_serialized_data import make_folder
from gracile.compat.aimet.weight_pages import most_uneven, of_layer, overview, relative
from gracile.errors import InputError
from gracile.html import Document, Section, page, write
from gracile.inputs import path_of
from gracile.quant import WeightRanges, weight_ranges

__all__ = [
    "visualize_changes_after_optimization",
    "visualize_relative_weight_ranges_to_identify_problematic_layers",
    "visualize_weight_ranges",
]

log = logging.getLogger(__name__)

# Layers by name, or the modules themselves.
Layers: TypeAlias = Sequence[str | nn.Module]


def visualize_weight_ranges(
    model: nn.Module, results_dir: str | PathLike[str], selected_layers: Layers | None = None
) -> Path:
    """Draw the weights of each output channel: smallest, mean and largest, and mean against deviation.

    Args:
        results_dir: gets ``visualize_weight_ranges.html``.
        selected_layers: convolutions and linear layers; by default all are in the table, and the twenty whose channels
            differ most are drawn channel by channel.

    Returns:
        The file; AIMET returns its plots.

    Raises:
        InputError: a layer is none of the model's convolutions and linear layers.
        FileError: the file cannot be written.
        MissingExtraError: plotly is not installed.
    """
    ranges = weight_ranges(model, _names(model, selected_layers))
    drawn = list(ranges) if selected_layers is not None else most_uneven(ranges)
    sections = [overview(ranges), *(of_layer(name, ranges[name]) for name in drawn)]
    return _written(results_dir, "visualize_weight_ranges", "Weight ranges", type(model).__name__, sections)


def visualize_relative_weight_ranges_to_identify_problematic_layers(
    model: nn.Module, results_dir: str | PathLike[str], selected_layers: Layers | None = None
) -> Path:
    """Draw each output channel's width over that of the layer's narrowest: what one scale for all has to span.

    Args:
        results_dir: gets ``visualize_relative_weight_ranges_to_identify_problematic_layers.html``.
        selected_layers: as in `visualize_weight_ranges`.

    Returns:
        The file; AIMET returns its plots.

    Raises:
        InputError, FileError, MissingExtraError: as `visualize_weight_ranges`.
    """
    ranges = weight_ranges(model, _names(model, selected_layers))
    drawn = list(ranges) if selected_layers is not None else most_uneven(ranges)
    sections = [overview(ranges), *(relative(name, ranges[name]) for name in drawn)]
    file = "visualize_relative_weight_ranges_to_identify_problematic_layers"
    return _written(results_dir, file, "Relative weight ranges", type(model).__name__, sections)


def visualize_changes_after_optimization(
    old_model: nn.Module,
    new_model: nn.Module,
    results_dir: str | PathLike[str],
    selected_layers: Layers | None = None,
) -> Path:
    """Draw the weights of each output channel before and after, as of cross-layer equalization.

    Args:
        new_model: what an optimization made of ``old_model``; layers go by their names, and those that are in one of
            the two only, or have another number of channels, are left out.
        results_dir: gets ``visualize_changes_after_optimization.html``.
        selected_layers: as in `visualize_weight_ranges`, of the old model; by default of those that changed.

    Returns:
        The file; AIMET returns its plots.

    Raises:
        InputError: the models share no layer, or a selected one is not in both with as many channels.
        FileError, MissingExtraError: as `visualize_weight_ranges`.
    """
    old = weight_ranges(old_model, _names(old_model, selected_layers))
    new = weight_ranges(new_model)
    shared = [name for name in old if name in new and len(new[name].mean) == len(old[name].mean)]
    lost = sorted(set(old) - set(shared))
    if lost and (selected_layers is not None or not shared):
        raise InputError(
            f"{lost[0]!r} is not in both models with as many output channels, so that nothing can be compared; "
            f"these are: {', '.join(shared) or 'none'}"
        )
    changed = {name: old[name] for name in shared if _differ(old[name], new[name])}
    drawn = shared if selected_layers is not None else most_uneven(changed)
    sections = [overview({name: new[name] for name in shared})]
    sections += [of_layer(name, old[name], new[name]) for name in drawn]
    subtitle = f"{type(old_model).__name__} before and {type(new_model).__name__} after"
    return _written(results_dir, "visualize_changes_after_optimization", "Weights before and after", subtitle, sections)


def _differ(old: WeightRanges, new: WeightRanges) -> bool:
    return any(
        not getattr(old, name).equal(getattr(new, name)) for name in ("smallest", "largest", "mean", "deviation")
    )


def _names(model: nn.Module, layers: Layers | None) -> list[str] | None:
    if layers is None:
        return None
    if isinstance(layers, str | nn.Module) or not isinstance(layers, Sequence):
        raise InputError(f"selected_layers is {layers!r}; give a list of layers or of their names, or None for all")
    known = ModuleNames(model)
    return [layer if isinstance(layer, str) else known.name(layer, "selected_layers") for layer in layers]


def _written(folder: str | PathLike[str], name: str, title: str, subtitle: str, sections: Sequence[Section]) -> Path:
    file = path_of("results_dir", folder) / f"{name}.html"
    text = page(Document(title=title, subtitle=subtitle, sections=sections))
    make_folder(file, "results_dir")
    log.info("%s is written", file)
    return write(file, text)
