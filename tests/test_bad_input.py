"""Bad input, one case each: a named error with the value and a way out, before hours of work."""

import contextlib
import copy
import json
import sqlite3
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.optional import optional
from torch import nn

import gracile
from gracile.cli import main
from gracile.compat.nni.compression.pruning import L1NormPruner
from gracile.errors import (
    CaptureError,
    EvaluationError,
    FileError,
    InputError,
    PlanError,
    RecipeError,
    StoreError,
    TargetError,
)
from gracile.export.checkpoint import require_free
from gracile.html import write
from gracile.recipe_file import Recipe
from gracile.store import Store

X = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
NAN, INF = float("nan"), float("inf")


class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3)
        self.fc = nn.Linear(width, 4)

    def forward(self, x):
        return self.fc(torch.relu(self.conv2(torch.relu(self.norm(self.conv(x))))).mean((2, 3)))


class Branching(nn.Linear):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else x


def net():
    return Net().eval()


def score(model):
    return -float(model(X).square().mean())


def compress(model=None, example=None, **options):
    options = {"evaluate": score, "target": gracile.Target(macs=0.7), "search": "tar"} | options
    return gracile.compress(net() if model is None else model, X[:1] if example is None else example, **options)


def by_hand(ratios, **options):
    return compress(target=None, ratios=ratios, **options)


def prune(model=None, example=None, **options):
    options = options or {"sparsity": 0.5}
    return gracile.prune.plan(net() if model is None else model, X[:1] if example is None else example, **options)


def factorize(**options):
    return gracile.lowrank.plan(net(), X[:1], **options)


def with_nan():
    model = net()
    model.conv2.weight.data[0] = NAN
    return model


def weight_normed():
    model = net()
    with pytest.warns(FutureWarning):
        torch.nn.utils.weight_norm(model.conv2)
    return model


def pruned_by_torch():
    model = net()
    torch.nn.utils.prune.l1_unstructured(model.conv2, "weight", 0.5)
    return model


def compiled():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.compile(net())


def on_meta():
    with torch.device("meta"):
        return Net()


def in_integers_of_torch():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(net(), {nn.Linear}, dtype=torch.qint8)


def in_training(model):
    model.train()
    return score(model)


def edits(*made):
    return gracile.Plan.from_json(json.dumps({"version": 1, "edits": list(made)}))


def attribute(name, value=3):
    return gracile.apply(net(), edits({"edit": "set_attribute", "module": "conv", "name": name, "value": value}))


MODELS = [
    (lambda: gracile.capture(None, X), InputError, "model is a NoneType"),
    (lambda: gracile.capture(Net, X), InputError, r"model is the class Net; give an instance, as Net\(\)"),
    (lambda: gracile.profile("resnet", X), InputError, "model is a str"),
    (lambda: prune(net().state_dict()), InputError, "model is a OrderedDict"),
    (lambda: gracile.apply(None, gracile.Plan()), InputError, "model is a NoneType"),
    (lambda: gracile.mask(None, gracile.Plan()), InputError, "model is a NoneType"),
    (lambda: gracile.applied_plan(None), InputError, "model is a NoneType"),
    (lambda: gracile.load("folder", None), InputError, "model is a NoneType"),
    (lambda: gracile.load("folder", on_meta()), InputError, "conv.weight of the fresh model is on the meta device"),
    (lambda: compress(on_meta()), CaptureError, "conv.weight is on the meta device"),
    (lambda: compress(nn.Sequential(nn.LazyConv2d(4, 3))), CaptureError, "not initialised yet; run the model once"),
    (lambda: compress(compiled()), CaptureError, "compiled by torch.compile; .*_orig_mod"),
    (lambda: compress(nn.DataParallel(net())), CaptureError, "wrapped in DataParallel; .*model.module"),
    (lambda: gracile.capture(Branching(4, 4), torch.ones(1, 4)), CaptureError, "Ways out"),
    (
        lambda: gracile.profile(net().half(), X),
        CaptureError,
        "The inputs are torch.float32 and the model's parameters torch.float16: convert one of them",
    ),
    (
        lambda: gracile.capture(in_integers_of_torch(), X),
        CaptureError,
        "fc is a Linear of torch.ao.nn.quantized, .*; give the model in floating point",
    ),
    (
        lambda: gracile.quantize(gracile.quantize(net(), X, calibration=[X]), X, calibration=[X]),
        PlanError,
        "the model is a simulation of integers already",
    ),
    (lambda: compress(nn.ReLU()), InputError, "no layer can be compressed by this method"),
    (lambda: compress(with_nan()), InputError, "conv2.weight holds NaN .* load an earlier checkpoint"),
    (lambda: compress(with_nan(), method="channel_pruning"), InputError, "conv2.weight holds NaN"),
    (lambda: prune(with_nan()), InputError, "conv2.weight holds NaN"),
    (lambda: gracile.lowrank.plan(with_nan(), X), InputError, "conv2.weight holds NaN"),
    (lambda: gracile.apply(with_nan(), factorize()), PlanError, "conv2 .*holds NaN"),
    (lambda: compress(weight_normed()), InputError, "conv2.weight is computed by a hook .*remove_weight_norm"),
    (lambda: prune(pruned_by_torch()), InputError, "conv2.weight is computed by a hook .*from_masks"),
    (lambda: gracile.apply(pruned_by_torch(), gracile.Plan()), InputError, "conv2.weight is computed by a hook"),
]

INPUTS = [
    (lambda: gracile.capture(net(), None), InputError, "example_inputs is a NoneType; give a tensor"),
    (lambda: gracile.capture(net(), X.numpy()), InputError, "example_inputs is a ndarray"),
    (lambda: gracile.capture(net(), (1, 3, 8, 8)), InputError, "holds no tensor"),
    (lambda: compress(example=X[:0]), InputError, r"holds no example: its shapes are \[\(0, 3, 8, 8\)\]"),
    (lambda: gracile.capture(net(), X.int()), CaptureError, "Ways out"),
    (lambda: gracile.capture(net(), {"image": X}), CaptureError, "Ways out"),
]

EVALUATIONS = [
    (lambda: compress(evaluate=lambda model: NAN), EvaluationError, "must return a finite number"),
    (lambda: compress(evaluate=lambda model: None), EvaluationError, "returned NoneType .*larger is better"),
    (lambda: compress(evaluate=lambda model: "0.5"), EvaluationError, "returned '0.5'"),
    (lambda: compress(evaluate=lambda model: torch.ones(3)), EvaluationError, "returned Tensor"),
    (lambda: compress(evaluate=lambda model: 1j), EvaluationError, "returned complex"),
    (lambda: compress(evaluate=lambda model: 10**400), EvaluationError, "a number .* that no float holds; scale it"),
    (lambda: compress(evaluate=lambda model: torch.tensor(True)), EvaluationError, r"returned tensor\(True\)"),
    (lambda: compress(evaluate=lambda model: np.True_), EvaluationError, "returned .*True"),
    (
        lambda: compress(evaluate=in_training),
        EvaluationError,
        r"changed the running statistics norm\..* Leave the mode as it is, which is evaluation",
    ),
    (lambda: compress(evaluate=lambda model: 1 / 0), EvaluationError, "failed on the original model: ZeroDivision"),
    (lambda: compress(evaluate=0.5), InputError, "evaluate is a float; give a function"),
    (lambda: compress(evaluate_search=0.5), InputError, "evaluate_search is a float; give a function"),
    (lambda: compress(fine_tune=3), InputError, "fine_tune is a int; give a function"),
    (lambda: compress(fine_tune=lambda model: nn.Linear(2, 2)), InputError, "not the compressed one"),
]

CALIBRATIONS = [
    (lambda: compress(calibration=[]), InputError, "calibration yields no batch"),
    (lambda: compress(calibration=[None]), InputError, "a calibration batch is a NoneType"),
    (lambda: compress(calibration=X), InputError, "calibration is a Tensor; give an iterable"),
    (lambda: compress(calibration=[X, X[:0]]), InputError, "calibration batch 2 holds no example"),
    (lambda: compress(calibration=[X * NAN]), InputError, "calibration batch 1 holds NaN"),
    (lambda: compress(calibration=[X[:, :2]]), CaptureError, r"\(8, 2, 8, 8\)"),
    # A data set in place of a loader: its examples have no batch axis.
    (
        lambda: compress(calibration=[(X[0], 3)]),
        CaptureError,
        r"a batch of float32 \(3, 8, 8\) does not run, where the "
        r"example inputs are float32 \(1, 3, 8, 8\); give batches shaped like those, as a DataLoader stacks them",
    ),
    (lambda: compress(calibration=[X.to(torch.uint8)]), CaptureError, r"a batch of uint8 .* of the same type"),
    (lambda: compress(calibration=[X / 0]), InputError, "conv reads NaN or infinite values, or such whose squares are"),
    (lambda: compress(calibration=[X * 1e30]), InputError, "conv reads NaN or infinite values"),
    (lambda: compress(calibration=[X / 0], method="channel_pruning"), InputError, "conv2 reads NaN or infinite values"),
    (lambda: compress(calibration=[X / 0], method="prune"), InputError, "conv2 reads NaN or infinite values"),
]

ARGUMENTS = [
    (lambda: gracile.Target(macs=0), InputError, "macs=0: a ratio is a number"),
    (lambda: gracile.Target(macs=NAN), InputError, "macs=nan"),
    (lambda: gracile.Target(macs="half"), InputError, "macs='half' is no amount"),
    (lambda: compress(target=0.5), InputError, "target is 0.5; give for example"),
    (lambda: prune(target=0.5), InputError, "target is 0.5; give for example"),
    (lambda: compress(target=gracile.Target(macs=1e-6)), TargetError, "cannot be reached"),
    (lambda: compress(method="svd"), InputError, "method is 'svd'; it is one of .* or 'auto', which finds them"),
    (lambda: compress(search="gredy"), InputError, "search is 'gredy'; it is one of"),
    (lambda: gracile.Search(candidates="10"), InputError, "candidates is '10'"),
    (lambda: gracile.Search(candidates=2.5), InputError, "candidates is 2.5"),
    (lambda: gracile.Search(candidates=("a", 0.5)), InputError, r"candidates is \('a', 0.5\)"),
    (lambda: by_hand([0.5]), InputError, r"ratios is \[0.5\]; give a dictionary"),
    (lambda: by_hand({"conv2": NAN}), InputError, r"ratios\['conv2'\] is nan"),
    (lambda: by_hand({3: 0.5}), InputError, "3 is a int; patterns are texts|ratios"),
    (lambda: factorize(ratios=[0.5]), InputError, r"ratios is \[0.5\]; give a dictionary"),
    (lambda: compress(exclude="conv"), InputError, r"exclude is the text 'conv'; give a list of patterns: \['conv'\]"),
    (lambda: compress(exclude=None), InputError, r"exclude is None; give a list .*\[\] for none"),
    (lambda: compress(exclude=[3]), InputError, r"exclude is \[3\]"),
    (lambda: prune(sparsity=0.5, exclude=None), InputError, "exclude is None"),
    (lambda: factorize(exclude=3), InputError, "exclude is 3"),
    (lambda: compress(seed="x"), InputError, "seed is 'x'; give a whole number"),
    (lambda: compress(seed=2**70), InputError, f"seed is {2**70}"),
    (lambda: prune(sparsity=0.5, criterion="random", seed=1.5), InputError, "seed is 1.5"),
    (lambda: compress(round_to=2.5), InputError, "round_to is 2.5"),
    (lambda: compress(max_sparsity=2), InputError, "max_sparsity is 2"),
    (lambda: prune(sparsity=1.0), InputError, "1.0"),
    (lambda: prune(sparsity=NAN), InputError, "nan"),
    (lambda: prune(sparsity={1: 0.5}), InputError, "1 is a int; patterns are texts"),
    (lambda: prune(sparsity=0.5, criterion="l3"), InputError, "criterion is 'l3'; it is one of"),
    (lambda: prune(sparsity=0.5, criterion=lambda m: m.sum(1) * NAN), InputError, "NaN or infinite scores"),
    (lambda: prune(sparsity=0.5, criterion=lambda m: 1 / 0), InputError, "the criterion failed on .* ZeroDivision"),
    (lambda: prune(sparsity=0.5, scope="all"), InputError, "scope is 'all'"),
    (lambda: factorize(cost_ratio=2), InputError, "cost_ratio is 2"),
]

FILES = [
    (lambda: gracile.apply(net(), "plan"), InputError, "plan is a str; give a gracile.Plan"),
    (lambda: gracile.apply(nn.Linear(2, 2), prune()), PlanError, "no module 'conv'"),
    (lambda: gracile.Plan.from_json(None), PlanError, "not a plan"),
    (lambda: gracile.Plan.from_json("{}"), PlanError, "it names no version"),
    (lambda: gracile.Plan.from_json('{"version": 9, "edits": []}'), PlanError, "format 1"),
    (lambda: gracile.Plan.from_json("[" * 100_000), PlanError, "recursion"),
    (lambda: gracile.Plan().then("x"), InputError, "other is a str; give a gracile.Plan"),
    (lambda: gracile.Plan().cost("x"), InputError, "graph is a str; give gracile.capture"),
    (lambda: attribute("__class__"), PlanError, "'__class__' of Conv2d is no number"),
    (lambda: attribute("forward"), PlanError, "'forward' of Conv2d is no number"),
    # A class is shared by every module of the process.
    (lambda: attribute("__class__._version"), PlanError, "'__class__._version' of Conv2d is no number"),
    (lambda: attribute("weight.requires_grad"), PlanError, "'weight.requires_grad' of Conv2d is no number"),
    (lambda: attribute("weight.data"), PlanError, "'weight.data' of Conv2d is no number"),
    (lambda: gracile.load(3, net()), InputError, "folder is a int; give a path"),
    (lambda: gracile.load("nowhere", net()), FileError, "nowhere"),
    (lambda: gracile.load("no\0where", net()), InputError, "a name that no file can have; give another path"),
    (lambda: gracile.Report.read("\ud800"), InputError, "a name that no file can have"),
    (lambda: compress(store="runs\0.db"), InputError, "store is 'runs.x00.db', a name that no file can have"),
    (lambda: gracile.Report.read(3), InputError, "file is a int; give a path"),
    (lambda: compress(store=3), InputError, "store is a int; give a path"),
    (lambda: Store(Path(__file__).parent), StoreError, "is a folder; give the name of a file, as .*evaluations.db"),
    (lambda: gracile.load(Path(__file__).parent, net()), FileError, "tests has no plan.json; give a folder that"),
    (lambda: Store(b"x"), InputError, "store is a bytes; give a path"),
    (lambda: Store().read_json("[" * 100_000), StoreError, "not an export"),
    (lambda: Store().read_json('{"version":1,"jobs":[{"key":{},"baseline":NaN,"scores":[]}]}'), StoreError, "no score"),
    (
        lambda: Store().read_json(f'{{"version":1,"jobs":[{{"key":{{}},"baseline":1,"scores":[["a",{10**30},1]]}}]}}'),
        StoreError,
        "no size",
    ),
]


@pytest.mark.parametrize(
    ("call", "kind", "message"), [*MODELS, *INPUTS, *EVALUATIONS, *CALIBRATIONS, *ARGUMENTS, *FILES]
)
def test_bad_input_is_named(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_torchscript_is_named():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(net(), X)
    with pytest.raises(CaptureError, match="TorchScript module"):
        compress(traced)
    with pytest.raises(InputError, match="TorchScript module, whose parts cannot be changed"):
        gracile.apply(traced, gracile.Plan())


def test_hostile_files_in_place_of_weights(tmp_path):
    folder = compress(method="weight_svd").save(tmp_path / "small")
    whole = (folder / "model.safetensors").read_bytes()
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 0]}}).encode()
    for data in (
        b"", b"\x80\x04cos\nsystem\n(S'exit 1'\ntR.", whole[:-10], (2**63 - 1).to_bytes(8, "little") + b"{}",
        len(header).to_bytes(8, "little") + header,
    ):  # fmt: skip
        (folder / "model.safetensors").write_bytes(data)
        with pytest.raises(FileError, match=r"model\.safetensors cannot be read"):
            gracile.load(folder, net())


def test_batches_of_changing_shape_and_small_floats_are_no_fault():
    changing = [X, X[:3], torch.ones(2, 3, 9, 9)]
    assert compress(calibration=changing).report.ratio("macs") <= 0.7
    small = X.bfloat16()
    half = compress(net().bfloat16(), small[:1], evaluate=lambda model: -float(model(small).square().mean()))
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.bfloat16}


class Whole(nn.Module):
    """All of it whole numbers, as models come that another tool has quantized."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4, dtype=torch.int8), requires_grad=False)

    def forward(self, x):
        return x @ self.weight


def test_integer_models_are_named():
    x = torch.ones(1, 4, dtype=torch.int8)
    with pytest.raises(InputError, match="no layer can be compressed by this method"):
        compress(Whole(), x, evaluate=lambda model: 1.0)
    with pytest.raises(InputError, match=r"Whole returns no tensor of floating-point numbers, .*quantize the part"):
        gracile.quantize(Whole(), x, calibration=[x])


def test_half_precision_keeps_its_type():
    half = X.half()
    small = compress(net().half(), half[:1], evaluate=lambda model: -float(model(half).square().mean())).model
    assert {parameter.dtype for parameter in small.parameters()} == {torch.float16}
    assert gracile.quantize(net().half(), half[:1], calibration=[half])(half).dtype == torch.float16


@pytest.mark.parametrize("wrap", ["spectral_norm", "weight_norm"])
def test_parametrized_modules(wrap):
    model = net()
    getattr(torch.nn.utils.parametrizations, wrap)(model.conv2)
    assert compress(model).report.ratio("macs") <= 0.7
    with pytest.raises(InputError, match=r"conv2 has parametrized tensors; .*remove_parametrizations"):
        gracile.quantize(model, X[:1], calibration=[X])
    # Cut where that equals the zeroed model; spectral norms see all channels at once, so what they touch stays whole.
    assert bool(prune(model).edits) == (wrap == "weight_norm")
    torch.nn.utils.parametrize.remove_parametrizations(model.conv2, "weight")
    assert prune(model).edits


def test_hooks_take_part():
    model = net()
    model.conv2.register_forward_hook(lambda module, inputs, output: 2 * output)
    small = gracile.apply(model, prune(model))
    # The cut model was compared with the zeroed original: the hook ran in both.
    assert small.conv.out_channels == 4
    assert len(small.conv2._forward_hooks) == 1


def test_sharded_parameters_are_named(tmp_path):
    distributed = torch.distributed
    if not distributed.is_available():
        pytest.skip("this torch has no torch.distributed")
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh  # noqa: PLC0415

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        model = net()
        whole = model.conv2.weight.data
        mesh = init_device_mesh("cpu", (1,))
        model.conv2.weight = nn.Parameter(distribute_tensor(whole, mesh, [Shard(0)]))
        with pytest.raises(CaptureError, match=r"conv2.weight is sharded over processes \(DTensor\).*full state_dict"):
            compress(model)
        model.conv2.weight = nn.Parameter(whole)
        assert compress(model).report.ratio("macs") <= 0.7
    finally:
        distributed.destroy_process_group()


def zeroing(model):
    with torch.no_grad():
        next(model.parameters()).zero_()
    return 1.0


def zeroing_data(model):
    next(model.parameters()).data.zero_()
    return 1.0


def swapping(model):
    model.fc = nn.Identity()
    return 1.0


@pytest.mark.parametrize(
    ("evaluate", "what"),
    [(zeroing, "conv.weight"), (zeroing_data, "conv.weight"), (swapping, "fc.weight")],
)
def test_evaluation_functions_that_change_the_model_are_named(evaluate, what):
    model = net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(EvaluationError, match=rf"changed {what}.* of the original model; .*Score a copy"):
        compress(model, evaluate=evaluate)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@contextlib.contextmanager
def full_disk(most):
    """Files of this process end at so many bytes, as on a full disk."""
    resource = pytest.importorskip("resource", reason="limits are those of Unix")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_named_and_the_old_folder_stays(tmp_path):
    result = compress()
    folder = result.save(tmp_path / "small")
    with full_disk(1000), pytest.raises(FileError, match=r"small cannot be written: .*File too large"):
        result.save(folder)
    with full_disk(1000), pytest.raises(FileError, match=r"page.html cannot be written: .*File too large"):
        write(tmp_path / "page.html", "x" * 5000)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["small"]
    assert torch.equal(gracile.load(folder, net())(X), result.model(X))


def masks_of_nni(path):
    model = net()
    pruner = L1NormPruner(model, [{"op_types": ["Conv2d"], "sparse_ratio": 0.5}])
    pruner.compress()
    pruner.export_model(path)


# All writers of single files; the folder of a result and the page have tests of their own.
WRITERS = {
    "m.onnx": lambda path: gracile.export.to_onnx(net(), X[:1], path),
    "m.pt2": lambda path: gracile.export.to_program(net(), X[:1], path),
    "m.encodings": lambda path: gracile.export.to_encodings(gracile.quantize(net(), X[:1], calibration=[X]), path),
    "m.html": lambda path: write(path, "x" * 5000),
    "m.pth": masks_of_nni,
}


@pytest.mark.parametrize("name", WRITERS)
def test_no_writer_leaves_half_a_file(tmp_path, name):
    if name == "m.onnx":
        optional("onnxscript")
    (tmp_path / name).write_text("as it was")
    with full_disk(500), pytest.raises(FileError, match=rf"{name} cannot be written: .*File too large"):
        WRITERS[name](tmp_path / name)
    # Below a file there is no folder, whoever asks; rights do not bind root.
    with pytest.raises(
        FileError, match=rf"{name}/{name} cannot be (written: .*(Not a directory|File exists)|made, as)"
    ):
        WRITERS[name](tmp_path / name / name)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, "as it was")]


def test_a_store_on_a_full_disk_goes_on_later(tmp_path):
    with Store(tmp_path / "runs.db") as store:
        job = store.job({"method": "svd"}, 1.0)
        job.put("conv", 1, 0.5)
        with full_disk(4096), pytest.raises(StoreError, match=r"runs.db cannot be used: .*make room on the disk"):  # noqa: PT012
            for size in range(2, 1000):
                job.put("conv" * 100, size, 0.5)
        job.put("conv", 2, 0.25)
    with Store(tmp_path / "runs.db") as store:
        scores = store.job({"method": "svd"}, 1.0).scores()
    assert scores["conv", 1] == 0.5
    assert scores["conv", 2] == 0.25


def test_a_store_in_use_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("gracile.store._BUSY_SECONDS", 0.05)
    path = tmp_path / "runs.db"
    with Store(path) as store:
        job = store.job({"method": "svd"}, 1.0)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        for call in (lambda: job.put("conv", 1, 0.5), lambda: store.job({}, 1.0), lambda: Store(path)):
            with pytest.raises(StoreError, match=r"runs.db cannot be used: .*locked; another process has kept it"):
                call()
        other.execute("ROLLBACK")
        other.close()
        job.put("conv", 1, 0.5)
        assert job.scores() == {("conv", 1): 0.5}


def test_a_read_only_folder_is_named_before_the_work(tmp_path, monkeypatch):
    # The rights themselves do not bind root, under whom tests run in containers.
    monkeypatch.setattr("gracile.export.checkpoint.os.access", lambda *_: False)
    with pytest.raises(FileError, match=r"small cannot be made, as .* cannot be written; give another folder"):
        require_free(tmp_path / "small")


@pytest.mark.parametrize("name", ["../../escaped", "/etc/passwd", "..\\escaped", "a/../../b"])
def test_names_that_leave_the_folder_lead_nowhere(tmp_path, name):
    hostile = {"edit": "factorize", "module": name, "scheme": "weight_svd", "rank": 1}
    with pytest.raises(PlanError, match="no module"):
        gracile.apply(net(), edits(hostile))
    folder = compress().save(tmp_path / "small")
    save_file({name: torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(FileError, match="does not fit this Net"):
        gracile.load(folder, net())
    assert [file.name for file in tmp_path.iterdir()] == ["small"]


def test_files_of_another_version_are_named(tmp_path):
    folder = compress().save(tmp_path / "small")
    for name, read in (("plan.json", lambda: gracile.load(folder, net())),
                       ("report.json", lambda: gracile.Report.read(folder / "report.json"))):  # fmt: skip
        file = folder / name
        file.write_text(file.read_text().replace('"version": 1', '"version": 2').replace('"version":1', '"version":2'))
        with pytest.raises(FileError, match=rf"{name}.*format 1"):
            read()


def test_shapes_that_fill_any_memory_are_refused(tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        "model: a:b\ninputs: [[1000000, 1000000, 1000000]]\nevaluate: a:c\ntarget: {macs: 0.5}\n"
    )
    with pytest.raises(RecipeError, match=r"recipe.yaml:2:\d+: .*has 1e\+18 elements; an example input has at most"):
        Recipe.read(tmp_path / "recipe.yaml")
    for shapes in (["1000000,1000000,1000000"], ["1000000,1000"] * 2):
        with pytest.raises(SystemExit) as caught:
            main(["profile", "torch.nn:Identity", *(word for shape in shapes for word in ("--input", shape))])
        assert caught.value.code == 1


def test_many_large_inputs_are_refused_together(tmp_path):
    shapes = ", ".join(["[1073741824]"] * 2000)
    (tmp_path / "recipe.yaml").write_text(f"model: a:b\ninputs: [{shapes}]\nevaluate: a:c\ntarget: {{macs: 0.5}}\n")
    with pytest.raises(RecipeError, match=r"recipe.yaml:2:\d+: inputs: the shapes have 2.15e\+12 elements together"):
        Recipe.read(tmp_path / "recipe.yaml")
