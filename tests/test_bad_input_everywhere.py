"""The same bad input at each entry point: a named error everywhere, as `test_bad_input` has them for `compress`."""

import json
import threading
import warnings

import pytest
import torch
from support.optional import optional
from test_bad_input import NAN, Branching, Net, X, compiled, compress, edits, net, on_meta, weight_normed, with_nan
from torch import nn

import gracile
from gracile import quant
from gracile.cli import main
from gracile.errors import CaptureError, EvaluationError, ExportError, FileError, GracileError, InputError, PlanError
from gracile.export.checkpoint import save
from gracile.quant import analyze, quantize_within

ENTRIES = {
    "compress": lambda model, x: gracile.compress(
        model, x, evaluate=lambda _: 1.0, target=gracile.Target(macs=0.7), search="tar"
    ),
    "prune.plan": lambda model, x: gracile.prune.plan(model, x, sparsity=0.5),
    "lowrank.plan": lambda model, x: gracile.lowrank.plan(model, x, cost_ratio=0.5),
    "quantize": lambda model, x: gracile.quantize(model, x, calibration=[x]),
    "prepare": lambda model, x: gracile.prepare(model, x, gracile.Pruning(sparsity=0.5)),
    "to_onnx": lambda model, x: gracile.export.to_onnx(model, x, "never.onnx"),
    "to_program": lambda model, x: gracile.export.to_program(model, x, "never.pt2"),
    "profile": gracile.profile,
}
EVERY = list(ENTRIES)
# What needs values and reads them.
VALUES = ["compress", "prune.plan", "lowrank.plan", "quantize", "prepare", "to_onnx"]


class Outside:
    """No type that torch.export knows."""


class Whole(nn.Module):
    def forward(self, x):
        made = Outside()
        made.scores = x
        return made


class Noisy(Net):
    def forward(self, x):
        return super().forward(x) + torch.randn(4)


def exported():
    return torch.export.export(net(), (X[:2],)).module()


def traced():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(net(), X[:2])


def with_nan_in_a_buffer():
    model = net()
    model.norm.running_mean[0] = NAN
    return model


def partly_traced():
    model = net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.conv2 = torch.jit.trace(model.conv2, torch.ones(1, 8, 8, 8))
    return model


def with_a_lock():
    model = net()
    model.guard = threading.Lock()
    return model


MODELS = [
    ("NaN in a buffer", with_nan_in_a_buffer, VALUES, "norm.running_mean holds NaN.*load an earlier checkpoint"),
    ("traced in part", partly_traced, EVERY, "conv2 is a TorchScript module.* give the original Python module"),
    ("with a lock", with_a_lock, ["compress", "prune.plan", "quantize"], "guard is a lock, of which .* no copy.*Ways"),
    ("None", lambda: None, EVERY, "model is a NoneType"),
    ("a class", lambda: Net, EVERY, r"model is the class Net; give an instance"),
    ("a state_dict", lambda: net().state_dict(), EVERY, "model is a OrderedDict"),
    ("on meta", on_meta, EVERY, "conv.weight is on the meta device and holds no values; load the weights first"),
    ("lazy", lambda: nn.Sequential(nn.LazyConv2d(4, 3)), EVERY, "is not initialised yet; run the model once"),
    ("compiled", compiled, EVERY, "compiled by torch.compile; give the module inside"),
    ("DataParallel", lambda: nn.DataParallel(net()), EVERY, "wrapped in DataParallel; give the module inside"),
    ("traced", traced, EVERY, "TorchScript module.* give the original Python module"),
    ("a program", exported, EVERY, "program of torch.export.*; give the original Python module"),
    ("branching", lambda: nn.Sequential(nn.Flatten(), Branching(192, 4)), EVERY, "could not capture .*(?s:.*)Ways out"),
    ("unknown output", Whole, EVERY, "could not capture Whole(?s:.*)Ways out"),
    ("NaN in a weight", with_nan, VALUES, "conv2.weight holds NaN or infinite values.*load an earlier checkpoint"),
    ("old weight norm", weight_normed, [*VALUES[:4]], "conv2.weight is computed by a hook .*remove_weight_norm"),
]

INPUTS = [
    ("None", None, EVERY, "example_inputs is a NoneType; give a tensor"),
    ("an array", X.numpy(), EVERY, "example_inputs is a ndarray"),
    ("a shape", (1, 3, 8, 8), EVERY, "example_inputs holds no tensor"),
    ("no example", X[:0], EVERY, r"example_inputs holds no example: its shapes are \[\(0, 3, 8, 8\)\]"),
    ("whole numbers", X.int(), EVERY, "could not capture Net(?s:.*)Ways out"),
    ("another shape", X[:, :2], EVERY, r"shapes \[\(8, 2, 8, 8\)\](?s:.*)Ways out"),
    ("another keyword", {"image": X}, EVERY, "could not capture Net(?s:.*)Ways out"),
    ("NaN", X * NAN, ["prune.plan", "quantize"], "NaN"),
]


@pytest.fixture
def nothing_written(tmp_path, monkeypatch):
    """The test runs in a folder that is empty, and stays so."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("entry", "make", "message"),
    [
        pytest.param(entry, make, message, id=f"{name}, {entry}")
        for name, make, entries, message in MODELS
        for entry in entries
    ],
)
def test_models(entry, make, message, nothing_written):
    if entry == "to_onnx":
        optional("onnxscript")
    model = make()
    with pytest.raises((CaptureError, InputError), match=message):
        ENTRIES[entry](model, X[:2])


@pytest.mark.parametrize(
    ("entry", "example", "message"),
    [
        pytest.param(entry, example, message, id=f"{name}, {entry}")
        for name, example, entries, message in INPUTS
        for entry in entries
    ],
)
def test_example_inputs(entry, example, message, nothing_written):
    if entry == "to_onnx":
        optional("onnxscript")
    with pytest.raises((CaptureError, InputError, PlanError), match=message):
        ENTRIES[entry](net(), example)


def test_a_model_that_draws_random_numbers_is_named():
    noisy = Noisy().eval()
    with pytest.raises(PlanError, match=r"Noisy returns something else each time for the same inputs.*pass it in"):
        gracile.prune.plan(noisy, X[:2], sparsity=0.5)
    with pytest.raises(CaptureError, match="does the model compute something else each time"):
        gracile.quantize(noisy, X[:2], calibration=[X])


@pytest.mark.parametrize(
    ("model", "example", "reason"),
    [(Net, X[:, :2], "RuntimeError"), (on_meta, X, ""),
     (exported, X, "NotImplementedError"), (net, {"image": X}, "TypeError")],
)  # fmt: skip
def test_what_does_not_run_is_not_timed(model, example, reason):
    with pytest.raises(InputError, match=rf"does not run on the example inputs.*{reason}.*check that model.eval\(\)"):
        gracile.benchmark({"a": model()}, example, runtime="eager", repeats=1)


CALIBRATIONS = [
    ([], "yields no batch; if it is a generator"),
    (iter([]), "yields no batch"),
    ([None], "a calibration batch is a NoneType"),
    (X, "calibration is a Tensor; give an iterable"),
    ("x", "calibration is a str; give an iterable"),
    ([X, X[:0]], "calibration batch 2 holds no example"),
    ([X * NAN], "calibration batch 1 holds NaN"),
    ([{"image": X}], "a calibration batch is a dictionary of"),
]
READERS = {
    "prune.plan": lambda data: gracile.prune.plan(
        net(), X[:2], sparsity=0.5, criterion="elimination", calibration=data
    ),
    "quantize": lambda data: gracile.quantize(net(), X[:2], calibration=data),
    "compress, int8": lambda data: compress(target=None, method="int8", search="exact", calibration=data),
    "mixed_precision": lambda data: gracile.quant.mixed_precision(net(), X[:2], calibration=data, bytes=0.5),
    "recover": lambda data: gracile.train.recover(net(), net(), data, example_inputs=X[:2]),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("data", "message"), CALIBRATIONS)
def test_calibration(reader, data, message):
    data = iter(()) if not isinstance(data, list | str | torch.Tensor) else data
    with pytest.raises(GracileError, match=message):
        READERS[reader](data)


@pytest.mark.parametrize("data", [X, "x", 3])
def test_recovery_without_example_inputs_takes_batches(data):
    with pytest.raises(InputError, match=r"calibration is a .*; give an iterable of batches"):
        gracile.train.recover(net(), net(), data)


def test_batches_of_changing_shape_calibrate_or_are_named():
    changing = [X, X[:3], torch.ones(2, 3, 10, 10)]
    assert gracile.prune.plan(net(), X[:2], sparsity=0.5, criterion="elimination", calibration=changing).edits
    with pytest.raises(GracileError, match=r"10, 10"):
        gracile.quantize(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).eval(), X[:2], calibration=changing)


def raising(_model):
    raise RuntimeError("the disk went away")


SCORES = [
    (lambda _: NAN, "finite number"), (lambda _: None, "returned NoneType"), (lambda _: "0.5", "returned '0.5'"),
    (lambda _: torch.ones(3), "returned Tensor"), (raising, "the disk went away"),
]  # fmt: skip
SCORERS = {
    "sensitivity": lambda score: gracile.prune.sensitivity(net(), X[:2], score, sparsities=(0.5,)),
    "analyze": lambda score: analyze(gracile.quantize(net(), X[:2], calibration=[X]), score),
    "quantize_within": lambda score: quantize_within(net(), X[:2], evaluate=score, calibration=[X], tolerance=0.1),
    "mixed_precision": lambda score: gracile.quant.mixed_precision(
        net(), X[:2], calibration=[X], bytes=0.5, evaluate=score
    ),
    "prune_iteratively": lambda score: gracile.prune_iteratively(
        net(), X[:2], evaluate=score, target=gracile.Target(macs=0.5), rounds=2
    ),
}


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize(("score", "message"), SCORES, ids=["NaN", "None", "text", "tensor", "raises"])
def test_evaluation_functions(scorer, score, message):
    with pytest.raises(EvaluationError, match=message):
        SCORERS[scorer](score)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of the user's beside the command line; its model, its data."""
    (tmp_path / "job_of_mine.py").write_text(
        "import torch\nfrom test_bad_input import net, with_nan, on_meta, compiled\n"
        "nothing = []\nholes = [torch.full((2, 3, 8, 8), float('nan'))]\nbatches = [torch.ones(2, 3, 8, 8)]\n"
    )
    monkeypatch.chdir(tmp_path)
    return "job_of_mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("prune MODULE:with_nan --sparsity 0.5 --output out", "conv2.weight holds NaN"),
        ("prune MODULE:on_meta --sparsity 0.5 --output out", "on the meta device"),
        ("prune MODULE:compiled --sparsity 0.5 --output out", "compiled by torch.compile"),
        ("prune MODULE:net --sparsity 1.5 --output out", "1.5"),
        ("prune MODULE:net --sparsity 0.5 --criterion l9 --output out", "criterion is 'l9'; it is one of"),
        (
            "prune MODULE:net --sparsity 0.5 --criterion elimination --calibration MODULE:nothing --output out",
            "no batch",
        ),
        ("quantize MODULE:net --output out", "activations need calibration data"),
        ("quantize MODULE:net --calibration MODULE:nothing --output out", "calibration yields no batch"),
        ("quantize MODULE:net --calibration MODULE:holes --output out", "calibration batch 1 holds NaN"),
        ("quantize MODULE:net --calibration MODULE:batches --weights int99 --output out", "int99"),
        ("profile MODULE:net --from nowhere", "nowhere"),
        ("export MODULE:net --from damaged --output out.onnx", "damaged/plan.json cannot be read"),
        ("inspect damaged", "damaged/plan.json cannot be read"),
        ("report damaged", "damaged/report.json"),
        ("watch damaged/plan.json --once", "plan.json"),
    ],
)
def test_the_command_line(module, arguments, message, tmp_path, capsys):
    (tmp_path / "damaged").mkdir()
    for name in ("plan.json", "model.safetensors", "report.json"):
        (tmp_path / "damaged" / name).write_bytes(b"\x80\x04cos\nsystem\n(S'exit 1'\ntR.")
    words = arguments.replace("MODULE", module).split()
    if words[0] in ("prune", "quantize", "profile", "export"):
        words += ["--input", "2,3,8,8"]
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 1
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_plans_of_hostile_values_change_nothing():
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for hostile in (
        {"edit": "slice", "tensor": "conv.weight", "axis": 0, "keep": [10**12]},
        {"edit": "slice", "tensor": "conv.weight", "axis": 9, "keep": [0]},
        {"edit": "slice", "tensor": "conv.weight", "axis": 0, "keep": []},
        {"edit": "factorize", "module": "conv", "scheme": "weight_svd", "rank": 10**18},
        {"edit": "set_attribute", "module": "conv", "name": "__dict__", "value": 3},
        {"edit": "replace_module", "module": "conv", "by": "os.system"},
    ):
        with pytest.raises(PlanError):
            gracile.apply(model, edits(hostile))
    with pytest.raises(PlanError):
        gracile.Plan.from_json(json.dumps({"version": 1, "edits": [{"edit": "slice"}]}))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_edits_a_model_names_what_cannot_be_edited():
    plan = gracile.prune.plan(net(), X[:2], sparsity=0.5)
    with pytest.raises(InputError, match="conv2 is a TorchScript module, whose parts cannot be changed"):
        gracile.apply(partly_traced(), plan)
    with pytest.raises(InputError, match="guard is a lock"):
        gracile.apply(with_a_lock(), plan)
    with pytest.raises(InputError, match=r"weight is on the meta device"):
        gracile.prune.sparsify(on_meta(), 0.5)
    with pytest.raises(InputError, match="ReLU has no macs to save"):
        gracile.prune_iteratively(nn.ReLU(), X, evaluate=lambda _: 1.0, target=gracile.Target(macs=0.5), rounds=1)
    with pytest.raises(InputError, match="is not initialised yet; run the model once"):
        gracile.benchmark({"a": nn.Sequential(nn.Identity(), nn.LazyLinear(2))}, X, runtime="eager", repeats=1)


class Divided(nn.Conv2d):
    """Weights divided by their norms, in the model's own code."""

    def forward(self, x):
        return nn.functional.conv2d(x, self.weight / self.weight.flatten(1).norm(dim=1)[:, None, None, None], self.bias)


def test_masks_leave_alone_what_they_would_make_nan(caplog):
    model = nn.Sequential(Divided(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    run = gracile.prepare(model, X[:2], gracile.Pruning(sparsity=0.5))
    assert not model(X).isnan().any()
    assert "0 divides its weights by their norm" in caplog.text
    assert {edit.tensor for edit in run.finalize().edits} == {"2.weight", "2.bias", "4.weight"}
    plan = gracile.prune.plan(model, X[:2], sparsity=0.5)
    assert any(edit.tensor == "0.weight" for edit in plan.edits)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for inplace in (False, True):
        with pytest.raises(InputError, match=r"^0 divides what is masked by its norm, or by a deviation, and zeros"):
            gracile.mask(model, plan, example_inputs=X[:2], inplace=inplace)
    # Without inputs it cannot be known.
    caplog.clear()
    assert gracile.mask(model, plan)(X).isnan().any()
    assert "the code of 0 takes norms or deviations: if it divides masked weights" in caplog.text
    # What was refused is as it was.
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    rest = gracile.prune.plan(model, X[:2], sparsity=0.5, exclude=["0"])
    assert not gracile.mask(model, rest, example_inputs=gracile.capture(model, X[:2]))(X).isnan().any()
    caplog.clear()
    assert not gracile.mask(model, rest)(X).isnan().any()
    assert not caplog.text


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize("wrap", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm])
def test_normed_weights_are_not_masked(wrap):
    model = nn.Sequential(wrap(nn.Conv2d(3, 8, 3)), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    with pytest.raises(GracileError, match=r"remove_parametrizations|remove_weight_norm"):
        gracile.mask(model, gracile.prune.plan(model, X[:2], sparsity=0.5))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gracile.mask(on_meta(), gracile.Plan(), example_inputs=X), InputError, "holds no values; load"),
        (lambda: save("folder", on_meta()), FileError, "conv.weight is on the meta device and holds no values"),
        (lambda: save("folder", nn.LazyLinear(2)), FileError, "weight is not initialised yet and holds no values"),
        (lambda: gracile.quantize(net(), X, calibration=[X, X.long()]), InputError,
         r"batch 1 of the calibration.*torch\.int64.*does not run: RuntimeError"),
    ],
    ids=["mask", "save meta", "save lazy", "batches of another type"],
)  # fmt: skip
def test_what_has_no_values_or_runs_on_none(call, error, message, nothing_written):
    with pytest.raises(error, match=message):
        call()


GRAPH = gracile.capture(net(), X)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        # A model, where a simulation of it is meant.
        (lambda: quant.adaround(net(), [X], GRAPH.example), "simulation is a Net; give what gracile.quantize made"),
        (lambda: quant.calibrate(net(), [X], GRAPH.example), "simulation is a Net"),
        (lambda: quant.fit_weights(net()), "simulation is a Net"),
        (lambda: quant.correct_bias(net(), [X], GRAPH.example), "simulation is a Net"),
        (lambda: quant.correct_bias_analytically(net(), {}), "simulation is a Net"),
        (lambda: quant.correct_bias_analytically(gracile.quantize(net(), X, activations=None), 3), "means is a int"),
        (lambda: quant.calibrate(gracile.quantize(net(), X, calibration=[X]), [X], X), "example is a Tensor"),
        (lambda: quant.place(3, quant.Formats("int8", "uint8")), "graph is a int"),
        (lambda: quant.place(GRAPH, "int8"), "formats is a str"),
        (lambda: quant.fold_plan(net(), X), "graph is a Tensor"),
        (lambda: quantize_within(3, X, calibration=[X], evaluate=lambda _: 1.0, tolerance=0.1), "model is a int"),
        (lambda: gracile.prune.scores_of(net(), X, []), "graph is a Tensor"),
        (lambda: gracile.prune.scores_of(net(), GRAPH, ["conv"]), "groups is"),
        (lambda: gracile.prune.scores_of("net", GRAPH, gracile.channel_groups(GRAPH)), "model is a str"),
        (lambda: gracile.prune.masks_of(None), "model is a NoneType"),
        (lambda: gracile.prune.speedup(None, X, {}), "model is a NoneType"),
        (lambda: gracile.prune.sparsity_of(3), "masks is a int"),
        (lambda: gracile.prune.gather(net(), "conv.weight", [X], "apoz", None), "names is 'conv.weight'"),
        (lambda: gracile.train.recover(net(), None, [X]), "model is a NoneType"),
        (lambda: gracile.prune_iteratively(net(), X, evaluate=lambda _: 1.0, target=0.5, rounds=1,
                                           fine_tune=lambda _: None), r"target is 0\.5; give for example"),
    ],
)  # fmt: skip
def test_one_thing_for_another(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_what_returns_nothing_is_no_file(tmp_path):
    optional("onnxscript")

    class Silent(nn.Linear):
        def forward(self, x):
            super().forward(x)

    with pytest.raises(ExportError, match="Silent returns no tensor"):
        gracile.export.to_onnx(Silent(4, 4), torch.ones(1, 4), tmp_path / "a.onnx")
