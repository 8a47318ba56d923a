"""A compressed model as a folder: ``plan.json`` (structure), ``model.safetensors`` (values), ``report.json``."""

import copy
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gracile.errors import FileError, InputError, PlanError
from gracile.export.files import require_possible
from gracile.graph import require_copyable
from gracile.inputs import path_of, require_module
from gracile.plan import Plan, Slice
from gracile.prune.gates import gates_of
from gracile.quant.trained import TrainedQuantizer
from gracile.quant.training import QuantizedTraining, QuantizedTrainingPart, training_of
from gracile.quant_edits import Quantize, ScaleChannels
from gracile.quantizer import Quantizer
from gracile.report import Report
from gracile.simulation import QUANTIZERS, Simulation
from gracile.surgery import applied_plan, apply

PLAN, WEIGHTS, REPORT = "plan.json", "model.safetensors", "report.json"
# What `gracile report` draws from the report.
PAGE = "report.html"

# Metadata of the safetensors file: the names of tied tensors beyond the first, as JSON.
_ALIASES = "gracile.aliases"
# The quantizers that are off, as JSON; files without it have none.
_OFF = "gracile.quantizers_off"
# Of a simulation in the midst of its training, the fields of its QuantizedTraining, as JSON.
_TRAINING = "gracile.quantized_training"


def save(folder: str | Path, model: nn.Module, report: Report | None = None) -> Path:
    """Write ``model`` and all that was applied to it; the folder is complete or as it was before.

    Args:
        folder: made where it is missing; replaced where it holds an earlier save and nothing else.
        model: a model that `gracile.apply` or `gracile.compress` returned.  A simulation in the midst of
            `gracile.quant.QuantizedTraining` is loaded as such: prepare the same spec for it to go on.

    Raises:
        InputError: masks are on the model, or quantizers in training of another kind.
        FileError: the folder holds other files, or cannot be written.
    """
    folder = path_of("folder", folder).absolute()
    _require_savable(model)
    require_free(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            _write(beside, model, report)
            _put(beside, folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise FileError(f"{folder} cannot be written: {error}") from error
    return folder


def require_free(folder: Path) -> None:
    """Raises FileError where `save` would refuse ``folder``: a file, other files in it, or no right to write."""
    if folder.is_file():
        raise FileError(f"{folder} is a file; give a folder")
    foreign = {entry.name for entry in folder.iterdir()} - {PLAN, WEIGHTS, REPORT, PAGE} if folder.is_dir() else set()
    if foreign:
        raise FileError(
            f"{folder} holds other files ({', '.join(sorted(foreign)[:3])}), and saving replaces the folder; "
            "give another one"
        )
    require_possible(folder, "folder")


def load(folder: str | Path, model: nn.Module) -> nn.Module:
    """The saved model: a copy of ``model`` with the plan replayed and the saved values in it, bit for bit.

    Args:
        model: a fresh instance of the original model's class; its weights do not matter and it stays as it is.

    Raises:
        InputError: ``model`` is no module that can be copied and filled.
        FileError: a file is missing, damaged, or does not fit the model.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model is a {type(model).__name__}; give a fresh instance of the model's class")
    require_module(model)
    for name, tensor in model.named_parameters():
        if tensor.is_meta:
            raise InputError(
                f"{name} of the fresh model is on the meta device, where saved values have no place; build the model "
                "on a real device, or call model.to_empty(device='cpu') first"
            )
    require_copyable(model)
    folder = path_of("folder", folder)
    require_folder(folder)
    plan = read_plan(folder / PLAN)
    values, metadata = _read_weights(folder / WEIGHTS)
    _require_scales(plan, values, folder)
    try:
        # Saved values spare a factorization; where slices follow it they have another shape, and are filled in later.
        sliced = any(isinstance(edit, Slice) for edit in plan.edits)
        loaded = apply(copy.deepcopy(model), plan, inplace=True, values=None if sliced else values)
    except PlanError as error:
        raise FileError(f"{folder / PLAN} does not fit this {type(model).__name__}: {error}") from error
    _train_on(loaded, training_in(metadata, folder / WEIGHTS), folder / WEIGHTS)
    _fill(loaded, values, folder / WEIGHTS)
    _switch_off(loaded, quantizers_off(metadata, folder / WEIGHTS), folder / WEIGHTS)
    return loaded


def _write(folder: Path, model: nn.Module, report: Report | None) -> None:
    (folder / PLAN).write_text(applied_plan(model).to_json(), encoding="utf-8")
    tensors, aliases = _untied(model)
    off = [name for name, module in model.named_modules() if isinstance(module, Quantizer) and not module.enabled]
    metadata = {_ALIASES: json.dumps(aliases), _OFF: json.dumps(off)}
    training = training_of(model) if isinstance(model, Simulation) else None
    if training is not None:
        metadata[_TRAINING] = json.dumps(asdict(training))
    save_file(tensors, folder / WEIGHTS, metadata=metadata)
    if report is not None:
        (folder / REPORT).write_text(report.to_json(), encoding="utf-8")
    for file in folder.iterdir():
        # safetensors and mkdtemp leave owner-only modes.
        file.chmod(0o666 & ~_umask())
    folder.chmod(0o777 & ~_umask())


def _require_savable(model: nn.Module) -> None:
    """Raises InputError where a folder could not hold what a run has put on the model."""
    require_module(model)
    if masked := sorted(gates_of(model)):
        raise InputError(
            f"{masked[0]} is masked, and a folder holds plain parameters; finalize the run that prunes it, or make the "
            "masks zeros with gracile.prune.unmask, and save then"
        )
    trained = [name for name, item in model.named_modules() if isinstance(item, TrainedQuantizer)]
    if trained and not (isinstance(model, Simulation) and training_of(model)):
        raise InputError(
            f"{trained[0]} is in training, though by no gracile.quant.QuantizedTraining; finish the training first (of "
            "AIMET's QuantizationSimModel take save_checkpoint)"
        )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _put(beside: Path, folder: Path) -> None:
    """Rename the finished folder into place; an earlier one is gone only when the new one stands."""
    if not folder.exists():
        beside.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    folder.rename(old / folder.name)
    try:
        beside.rename(folder)
    except OSError:
        (old / folder.name).rename(folder)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _untied(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state_dict with each storage once, and the further names -> the name that is kept."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise FileError(f"{name} of the state_dict is a {type(tensor).__name__}; only tensors can be saved safely")
        if tensor.is_meta or isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer):
            what = "is on the meta device" if tensor.is_meta else "is not initialised yet"
            raise FileError(f"{name} {what} and holds no values that could be saved; load or compute the weights first")
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
        kept = first.setdefault(key, name) if tensor.numel() else name
        if kept != name:
            aliases[name] = kept
        else:
            # Views into one storage are not ties: each gets a storage of its own.
            tensors[name] = tensor.detach().contiguous().clone()
    return tensors, aliases


def require_folder(folder: Path) -> None:
    """Raises FileError where ``folder`` is none, and so nothing that was saved."""
    if not folder.is_dir():
        raise FileError(f"{folder} is no folder; give one that gracile saved, with {PLAN} and {WEIGHTS} in it")


def read_plan(file: Path) -> Plan:
    if not file.exists():
        require_folder(file.parent)
        raise FileError(
            f"{file.parent} has no {file.name}; give a folder that gracile saved, with {PLAN} and {WEIGHTS} in it"
        )
    try:
        return Plan.from_json(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, PlanError) as error:
        raise FileError(f"{file} cannot be read: {error}") from error


def quantizers_off(metadata: Mapping[str, str], file: Path) -> tuple[str, ...]:
    """The quantizers that a file's metadata says are off.

    Raises:
        FileError: it says no names.
    """
    try:
        names = json.loads(metadata.get(_OFF, "[]"))
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FileError(f"{file} cannot be read: its metadata {_OFF!r} is no list of quantizers")
    return tuple(names)


def training_in(metadata: Mapping[str, str], file: Path) -> QuantizedTraining | None:
    """What the metadata of a file says of a training under way; None where there is none.

    Raises:
        FileError: it says no such thing.
    """
    if _TRAINING not in metadata:
        return None
    try:
        return QuantizedTraining(**json.loads(metadata[_TRAINING]))
    except (ValueError, TypeError, RecursionError) as error:
        raise FileError(f"{file} cannot be read: its metadata {_TRAINING!r} is no training: {error}") from error


def _train_on(model: nn.Module, training: QuantizedTraining | None, file: Path) -> None:
    """Put the model's quantizers in training, so that they take what was learned."""
    if training is None:
        return
    if not isinstance(model, Simulation):
        raise FileError(f"{file} is of a simulation in training, and {PLAN} makes a {type(model).__name__}")
    try:
        QuantizedTrainingPart(model, training)
    except InputError as error:
        raise FileError(f"{file} does not fit this {type(model).__name__}: {error}") from error


def _switch_off(model: nn.Module, names: Iterable[str], file: Path) -> None:
    quantizers = {name: module for name, module in model.named_modules() if isinstance(module, Quantizer)}
    for name in names:
        if name not in quantizers:
            raise FileError(f"{file} does not fit this {type(model).__name__}: it has no quantizer {name!r}")
        quantizers[name].enabled = False


def _read_weights(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors by all of their names, and the metadata."""
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            metadata: dict[str, str] = opened.metadata() or {}
        aliases = json.loads(metadata.get(_ALIASES, "{}"))
        return tensors | {name: tensors[kept] for name, kept in aliases.items()}, metadata
    except (OSError, SafetensorError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise FileError(f"{file} cannot be read: {type(error).__name__}: {error}") from error


def _require_scales(plan: Plan, values: Mapping[str, Tensor], folder: Path) -> None:
    """Raises FileError where the plan asks for scales or factors that the values are not; before they take memory."""
    # What is cut later has another shape by then; the Edit's own bound holds for it.
    cut = {edit.tensor for edit in plan.edits if isinstance(edit, Slice)}
    for edit in plan.edits:
        if isinstance(edit, Quantize):
            name = f"{QUANTIZERS}.{edit.name}.zero_point"
        elif isinstance(edit, ScaleChannels):
            name = f"{QUANTIZERS}.{edit.quantizer}_factors.factors"
        else:
            continue
        found = values.get(name)
        if found is None or (tuple(found.shape) != edit.shape and name not in cut):
            has = "has none" if found is None else f"has {list(found.shape)}"
            raise FileError(
                f"{folder / PLAN} does not fit {WEIGHTS}: it asks for {name} of the shape {list(edit.shape)}, and "
                f"{WEIGHTS} {has}; are the two of one save?"
            )


@torch.no_grad()
def _fill(model: nn.Module, values: dict[str, Tensor], file: Path) -> None:
    """Copy all values into the model's tensors, which take on the saved dtypes."""
    own = model.state_dict()
    missing, extra = sorted(own.keys() - values.keys()), sorted(values.keys() - own.keys())
    wrong = [name for name in own.keys() & values.keys() if own[name].shape != values[name].shape]
    if missing or extra or wrong:
        raise FileError(
            f"{file} does not fit this {type(model).__name__} after its plan: missing {missing[:5]}, "
            f"unknown {extra[:5]}, of another shape {sorted(wrong)[:5]}; was another model saved?"
        )
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, parameter in parameters.items():
        # Other precisions of real numbers are what `half()` makes; whole numbers have no gradients.
        if name in values and _kind(values[name]) != _kind(parameter):
            raise FileError(
                f"{file} does not fit this {type(model).__name__}: {name} is {values[name].dtype} there, and "
                f"{parameter.dtype} in the model"
            )
    named = parameters | dict(model.named_buffers(remove_duplicate=False))
    for name, tensor in named.items():
        if name in values:
            tensor.data = tensor.data.to(values[name].dtype)
    # Into the model's own dictionary: it carries the versions that some modules ask for when they load.
    own.update(values)
    model.load_state_dict(own)


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()
