"""Every option of every entry point with values of other types: accepted where they mean something, else named."""

import math

import pytest
import torch
from test_bad_input import X, compress, net

import gracile
from gracile.errors import GracileError

ODD = {"None": None, "text": "x", "negative": -1, "NaN": math.nan, "list": [1], "fraction": 2.5, "object": object(),
       "huge": 10**30}  # fmt: skip
MODEL, SIMULATION = net(), gracile.quantize(net(), X[:2], calibration=[X])

# Entry -> a call of it with one option replaced, and its options.
ENTRIES = {
    "quantize": (
        lambda **odd: gracile.quantize(MODEL, X[:1], **({"calibration": [X[:1]]} | odd)),
        "weights activations method observer overrides include exclude seed calibration",
    ),
    "prune.plan": (
        lambda **odd: gracile.prune.plan(MODEL, X[:1], **({"sparsity": 0.5} | odd)),
        "criterion scope round_to max_sparsity include exclude heads grouped loss seed target sparsity",
    ),
    "prune.sparsify": (
        lambda **odd: gracile.prune.sparsify(MODEL, **({"sparsity": 0.5} | odd)),
        "sparsity granularity tile criterion scope max_sparsity include exclude seed statistics",
    ),
    "lowrank.plan": (
        lambda **odd: gracile.lowrank.plan(MODEL, X[:1], **odd),
        "method cost_ratio metric ratios round_to exclude",
    ),
    "compress": (
        lambda **odd: compress(MODEL, **({"evaluate": lambda _: 1.0} | odd)),
        "evaluate target method search criterion scope evaluate_search ratios ratios_metric round_to max_sparsity "
        "exclude fine_tune fine_tune_layer recover executor n_jobs seed auto split calibration",
    ),
    "capture": (lambda **odd: gracile.capture(MODEL, X[:1], **odd), "dynamic_batch training"),
    "channel_groups": (lambda **odd: gracile.channel_groups(MODEL, X[:1], **odd), "heads grouped"),
    "apply": (lambda **odd: gracile.apply(MODEL, **({"plan": gracile.Plan()} | odd)), "plan inplace values"),
    "mask": (lambda **odd: gracile.mask(MODEL, **({"plan": gracile.Plan()} | odd)), "plan inplace"),
    "load": (lambda **odd: gracile.load(model=MODEL, **odd), "folder"),
    "benchmark": (
        lambda **odd: gracile.benchmark(
            **({"models": {"a": MODEL}, "example_inputs": X[:1], "runtime": "eager", "repeats": 1, "warm_up": 0} | odd)
        ),
        "models example_inputs runtime threads repeats warm_up seed",
    ),
    "to_onnx": (
        lambda **odd: gracile.export.to_onnx(MODEL, X[:1], **({"path": "some.onnx"} | odd)),
        "path opset dynamic_batch verify tolerance",
    ),
    "to_program": (
        lambda **odd: gracile.export.to_program(MODEL, X[:1], **({"path": "x"} | odd)), "path dynamic_batch"
    ),
    "to_encodings": (lambda **odd: gracile.export.to_encodings(SIMULATION, **({"path": "."} | odd)), "path version"),
    "inspect_onnx": (gracile.export.inspect_onnx, "path"),
    "operator_times": (
        lambda **odd: gracile.export.operator_times(**({"path": "never.onnx", "example_inputs": X[:1]} | odd)),
        "path example_inputs threads repeats",
    ),
    "Search": (gracile.Search, "kind candidates monotonic surrogate memo_bytes options"),
    "Target": (gracile.Target, "macs params bytes latency own"),
    "Target of a latency": (lambda **odd: gracile.Target(latency=0.5, **odd), "runtime threads"),
    "Schedule": (gracile.Schedule, "kind start every times"),
    "Slim": (gracile.Slim, "scale"),
    "ADMM": (gracile.ADMM, "rho every"),
    "Movement": (gracile.Movement, "rate threshold scale"),
    "Pruning": (
        lambda **odd: gracile.Pruning(**({"sparsity": 0.5} | odd)),
        "criterion sparsity target granularity tile scope schedule max_sparsity round_to include exclude heads grouped "
        "regularizer movement rewind_to seed",
    ),
    "Distillation": (
        lambda **odd: gracile.Distillation(MODEL, **odd),
        "weight temperature layers layer_weight loss axis adapter_rate seed",
    ),
    "QuantizedTraining": (gracile.QuantizedTraining, "method initial start freeze gradient_bits draw_signs seed"),
    "Recovery": (
        gracile.train.Recovery,
        "block_epochs epochs rate weight_decay batch_statistics temperature layer_weight autocast",
    ),
    "Auto": (
        gracile.Auto,
        "trials minutes tolerated_loss methods int8 criteria scopes round_to shares batch fine_tune margin noise study "
        "worker",
    ),
    "Annealing": (
        gracile.Annealing,
        "start_temperature stop_temperature cool_down_rate perturbation_magnitude proposals",
    ),
    "AMC": (gracile.AMC, "episodes warm_up noise noise_decay hidden_sizes actor_learning_rate tau batch_size"),
}  # fmt: skip

# What an option takes of the odd values, beyond "None", a "fraction" and a number however large where it is a number.
MEANT = {
    ("quantize", "seed", "negative"), ("prune.plan", "seed", "negative"), ("prune.sparsify", "seed", "negative"),
    ("compress", "seed", "negative"), ("benchmark", "seed", "negative"), ("Pruning", "seed", "negative"),
    ("Distillation", "seed", "negative"), ("Distillation", "axis", "negative"),
    ("QuantizedTraining", "seed", "negative"), ("prune.sparsify", "tile", "list"), ("Auto", "worker", "text"),
    ("to_onnx", "path", "text"), ("to_encodings", "path", "text"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "option"), [(entry, option) for entry, (_, options) in ENTRIES.items() for option in options.split()]
)
def test_values_of_other_types_are_named(entry, option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call = ENTRIES[entry][0]
    for kind, value in ODD.items():
        said = refused_with(lambda value=value: call(**{option: value}))
        if said is None:
            assert kind in ("None", "fraction", "huge") or (entry, option, kind) in MEANT, f"{kind} was taken"
        elif "Ways out" not in said:
            # A reader knows what is wrong.
            named = option, repr(value)[:8], type(value).__name__, f"{value}/", f"{value} is no file"
            assert any(name in said for name in named), said


def refused_with(call):
    try:
        call()
    except GracileError as error:
        return str(error)
    return None


def test_a_name_of_benchmarks_models_is_text():
    with pytest.raises(GracileError, match="3 in models is a int; names are texts"):
        gracile.benchmark({3: net()}, X[:1], runtime="eager")


def test_layers_that_are_linked_to_no_name():
    with pytest.raises(GracileError, match=r"layers links 'conv' to \(3,\); names of modules are texts"):
        gracile.Distillation(torch.nn.Identity(), layers={"conv": 3})
