import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from gracile import Search, Sensitivity, Target
from gracile.auto_options import Auto
from gracile.errors import FileError, RecipeError
from gracile.recipe_file import Recipe
from gracile.registered import OWN_METHODS, OWN_METRICS, OWN_SEARCHES
from gracile.split_options import Split
from gracile.yaml_file import MAX_BYTES

MODULE = """
import sys
import torch
from torch import nn

def model():
    return nn.Linear(3, 4)

ready = nn.Linear(5, 6)
inputs = (torch.zeros(1, 3), torch.ones(2))
batches = [torch.zeros(1, 3)]

def generated():
    yield from batches

def evaluate(model):
    return 1.0

def number():
    return 3

def broken():
    raise ValueError("no weights here")

def demanding(path):
    return nn.Linear(1, 1)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an importable module."""
    name = f"recipe_module_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / f"failing_{name}.py").write_text("import no_such_dependency\n")
    (tmp_path / f"exiting_{name}.py").write_text("raise SystemExit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def _write(folder: Path, text: str) -> Path:
    file = folder / "r.yaml"
    file.write_text(textwrap.dedent(text))
    return file


def _faults(folder: Path, text: str) -> list[str]:
    file = _write(folder, text)
    with pytest.raises(RecipeError) as caught:
        Recipe.read(file)
    return [line.removeprefix(f"{file}:") for line in str(caught.value).splitlines()]


GOOD = "model: a:b\ninputs: [[1, 3]]\nevaluate: a:c\ntarget: {macs: 0.5}\n"


def test_a_full_recipe(tmp_path: Path, module: str) -> None:
    file = _write(
        tmp_path,
        f"""\
        model: {module}:model
        inputs: [[2, 3], {{shape: [1, 4], dtype: int64}}, {{shape: [2], dtype: bool}}]
        evaluate: {module}:evaluate
        evaluate_search: {module}:evaluate
        calibration: {module}:generated
        fine_tune: {module}:evaluate
        fine_tune_layer: {module}:evaluate
        method: weight_svd
        target: {{params: 1.5M}}
        search: {{kind: exact, candidates: [0.25, 0.5], monotonic: true, surrogate: auto}}
        round_to: 8
        layer_latency: eager
        exclude: ["head*", 2020-01-01]
        store: runs/x.db
        shared_store: true
        seed: 3
        output: runs/small
        """,
    )
    job = Recipe.read(file).job()
    assert isinstance(job.model, nn.Linear)
    noise, whole, mask = job.example_inputs
    assert noise.shape == (2, 3)
    assert noise.std() > 0
    assert torch.equal(whole, torch.zeros(1, 4, dtype=torch.int64))
    assert torch.equal(mask, torch.tensor([True, True]))
    assert [batch.shape for batch in job.options.pop("calibration")] == [(1, 3)]
    assert {job.options.pop(name).__name__ for name in ("evaluate", "evaluate_search")} == {"evaluate"}
    assert {job.options.pop(name).__name__ for name in ("fine_tune", "fine_tune_layer")} == {"evaluate"}
    assert job.options == {
        "method": "weight_svd",
        "target": Target(params="1.5M"),
        "ratios": None,
        "search": Search(kind="exact", candidates=(0.25, 0.5), monotonic=True, surrogate="auto"),
        "round_to": 8,
        "exclude": ["head*", "2020-01-01"],
        "store": "runs/x.db",
        "shared_store": True,
        "seed": 3,
        "criterion": "auto",
        "loss": None,
        "recover": None,
        "scope": "layer",
        "max_sparsity": 0.9,
        "ratios_metric": "macs",
        "layer_latency": "eager",
    }
    assert job.output == Path("runs/small")


def test_defaults_and_ready_objects(tmp_path: Path, module: str) -> None:
    file = _write(
        tmp_path,
        f"""\
        model: {module}:ready
        inputs: {module}:inputs
        evaluate: {module}:evaluate
        calibration: {module}:batches
        ratios:
          "0": 0.5
          layer.*: 1
        """,
    )
    job = Recipe.read(file).job()
    assert job.model.in_features == 5
    assert len(job.example_inputs) == 2
    assert job.options["search"] == Search()
    assert job.options["ratios"] == {"0": 0.5, "layer.*": 1}
    assert (job.options["method"], job.options["round_to"], job.options["seed"]) == ("spatial_svd", "auto", 0)
    assert job.options["target"] is None
    assert job.output is None


def test_pruning_with_a_criterion_of_ones_own(tmp_path: Path, module: str) -> None:
    file = _write(
        tmp_path,
        GOOD.replace("a:b", f"{module}:model").replace("a:c", f"{module}:evaluate")
        + f"""\
method: spatial_svd+prune
criterion: {module}:number
loss: {module}:evaluate
scope: global
max_sparsity: 0.5
""",
    )
    options = Recipe.read(file).job().options
    assert (options["method"], options["scope"], options["max_sparsity"]) == ("spatial_svd+prune", "global", 0.5)
    assert (options["criterion"].__name__, options["loss"].__name__) == ("number", "evaluate")


def test_recovery_without_labels(tmp_path: Path) -> None:
    assert Recipe.read(_write(tmp_path, GOOD + "recover: distill\n")).recover == "distill"
    with pytest.raises(RecipeError, match=r'recover is True; give "distill"'):
        Recipe.read(_write(tmp_path, GOOD + "recover: true\n"))


def test_the_automatic_search_and_its_options(tmp_path: Path, module: str) -> None:
    text = f"""\
        model: {module}:ready
        inputs: {module}:inputs
        evaluate: {module}:evaluate
        target: {{macs: 0.5}}
        method: auto
        auto: {{trials: 20, methods: [prune, spatial_svd], tolerated_loss: 0.01}}
        """
    job = Recipe.read(_write(tmp_path, text)).job()
    assert job.options["method"] == "auto"
    assert job.options["auto"] == Auto(trials=20, methods=("prune", "spatial_svd"), tolerated_loss=0.01)
    bare = "\n".join(line for line in text.splitlines() if "auto: {" not in line)
    assert Recipe.read(_write(tmp_path, bare)).job().options["auto"] == Auto()


def test_how_methods_share_a_target(tmp_path: Path, module: str) -> None:
    text = f"""\
        model: {module}:ready
        inputs: {module}:inputs
        evaluate: {module}:evaluate
        target: {{macs: 0.5}}
        method: spatial_svd+prune
        split: {{values: [0.4, 1.0], tolerated: 0.05, trained: true}}
        """
    job = Recipe.read(_write(tmp_path, text)).job()
    assert job.options["split"] == Split(values=(0.4, 1.0), tolerated=0.05, trained=True)


def test_a_search_by_name(tmp_path: Path) -> None:
    assert Recipe.read(_write(tmp_path, GOOD + "search: tar\n")).search.search() == Search(kind="tar")


def test_all_faults_come_at_once_in_order(tmp_path: Path) -> None:
    found = _faults(
        tmp_path,
        """\
        model: nets/resnet.py
        inpts: [[1, 3]]
        target:
          macs: 1.5
          parms: 3
        method: int8+svd
        """,
    )
    assert [fault.split(" ")[0] for fault in found] == ["1:1:", "1:1:", "1:8:", "2:1:", "4:9:", "5:3:", "6:9:"]
    assert found[0].startswith("1:1: evaluate is missing; give a function model -> score")
    assert found[1].startswith("1:1: inputs is missing; give a list of shapes, as in [[1, 3, 224, 224]]")
    assert "'nets/resnet.py' names no object" in found[2]
    assert found[2].endswith("name the module, not its file: nets.resnet:attribute")
    assert found[3] == "2:1: there is no field inpts; did you mean inputs?"
    assert found[4].startswith("4:9: macs=1.5: a ratio is a number in (0, 1]")
    assert found[5] == "5:3: there is no field target.parms; did you mean params?"
    assert found[6].startswith("6:9: method is 'int8+svd'; int8 comes last and once")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("auto: {trails: 3}", "5:7: auto: Auto has no option 'trails'"),
        ("auto: {trials: 0}", "5:7: auto: Auto: trials is 0"),
        ("split: {value: 3}", "5:8: split: Split has no option 'value'"),
        ("split: {values: [2]}", "5:8: split: Split: values is (2,)"),
        ("search: a+b", "5:9: search is 'a+b'; give one of greedy, tar, exact"),
        ("search: {kind: ''}", "5:16: search.kind is ''; give one of greedy, tar, exact"),
        (
            "search: 3",
            "5:9: search is 3; give one of greedy, tar, exact, annealing, netadapt, sensitivity, amc, one that was",
        ),
        ("search: {kind: own, options: {step: 2}}", "5:9: search: options: the search 'own' has none"),
        ("method: prune++int8", "5:9: method is 'prune++int8'; it is one of"),
        ("search: {candidates: [0.3, 6]}", "5:22: candidates is (0.3, 6); ratios are numbers in (0, 1)"),
        ("search: {candidates: 1}", "5:22: candidates is 1; an integer must be at least 2"),
        ("search: {candidates: few}", "5:22: candidates is 'few'; give a number of ratios, as 10, or a list"),
        ("search: {monotonic: 1}", "5:21: search.monotonic is 1; give true or false"),
        ("search: {kid: tar}", "5:10: there is no field search.kid; did you mean kind?"),
        ("round_to: 0", '5:11: round_to is 0; give a whole number of at least 1, or "auto"'),
        ("round_to: 2.5", '5:11: round_to is 2.5; give a whole number of at least 1, or "auto"'),
        ("exclude: head", "5:10: exclude is 'head'; give a list of patterns, as in [\"head*\"]"),
        ("exclude: [a, 3]", "5:14: exclude[1] is 3; give a list of patterns"),
        ("seed: -1", "5:7: seed is -1; give a whole number of at least 0"),
        ('seed: "1"', "5:7: seed is '1'; give a whole number of at least 0"),
        ("store: [x]", "5:8: store is ['x']; give the path of an SQLite file"),
        ("output: 3", "5:9: output is 3; give the path of a folder"),
        ("calibration: data", "5:14: calibration: 'data' names no object: a reference has the form"),
        ("zzz: 1", "5:1: there is no field zzz; the fields are model, inputs, evaluate"),
        ("ratios: {a: 0.5}", "5:1: target and ratios exclude each other"),
        ("model: a:c", "5:1: model stands in line 1 already"),
        ("? [a, b]\n: 1", "5:3: a key must be plain text"),
    ],
)
def test_messages(tmp_path: Path, line: str, expected: str) -> None:
    (found,) = _faults(tmp_path, GOOD + line)
    assert found.startswith(expected)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("target: 0.5", "4:9: target is 0.5; give one metric and its bound, as in {macs: 0.5}"),
        ("target: {}", "4:9: target: a Target names exactly one of macs, params, bytes, latency and own; none"),
        (
            "target: {macs: 0.5, bytes: 1}",
            "4:9: target: a Target names exactly one of macs, params, bytes, latency and own; ",
        ),
        ("target: {macs: half}", "4:16: macs='half' is no amount; give a number with k, M, G or T"),
        ("target: {own: {energy: 2}}", "4:15: target.own: energy=2: a ratio is a number in (0, 1]"),
        ("target: {own: {a: 0.5, b: 0.5}}", "4:15: own is {'a': 0.5, 'b': 0.5}; give one metric and its bound"),
        ("target: {own: {a: 0.5}, macs: 0.5}", "4:9: target: a Target names exactly one of"),
        ("target:", "1:1: target is missing; write for example target: {macs: 0.5}, or ratios by hand"),
        ("ratios: {a: 0}", "4:13: ratios.a is 0; give patterns of layers with the share of their cost that remains"),
        ("ratios: {seed: x}", "4:16: ratios.seed is 'x'; give patterns of layers with the share of their cost"),
        ("ratios: 0.5", "4:9: ratios is 0.5; give patterns of layers"),
    ],
)
def test_messages_about_targets(tmp_path: Path, line: str, expected: str) -> None:
    (found,) = _faults(tmp_path, GOOD.replace("target: {macs: 0.5}", line))
    assert found.startswith(expected)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("inputs: 3", "2:9: inputs is 3; give a list of shapes"),
        ("inputs: []", "2:9: inputs is []; give a list of shapes"),
        ("inputs: [[1, 0]]", "2:14: inputs[0][1] is 0; give a list of positive sizes, as in [1, 3, 224, 224]"),
        ("inputs: [[1, 2.5]]", "2:14: inputs[0][1] is 2.5; give a list of positive sizes"),
        ("inputs: [{dtype: int64}]", "2:10: inputs[0].shape is missing; give a list of positive sizes"),
        ("inputs: [{shape: [1], dtype: float}]", "2:30: inputs[0].dtype is 'float'; give one of float32, float64"),
        ("inputs: [{shape: [1], type: x}]", "2:23: there is no field inputs[0].type; did you mean dtype?"),
        ("inputs: x", "2:9: inputs: 'x' names no object"),
    ],
)
def test_messages_about_inputs(tmp_path: Path, line: str, expected: str) -> None:
    (found,) = _faults(tmp_path, GOOD.replace("inputs: [[1, 3]]", line))
    assert found.startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1:1: the file is empty"),
        ("# nothing\n", "1:1: the file is empty"),
        ("- a\n- b\n", "1:1: the file holds no mapping"),
        ("a: [1, 2\nb: 3\n", "2:2: no valid YAML: while parsing a flow sequence expected ',' or ']', but got ':'"),
        ("a: 1\n\tb: 2\n", "2:1: no valid YAML: while scanning for the next token found character '\\t'"),
        ("a: b: c\n", "1:5: no valid YAML: mapping values are not allowed here"),
        ("a: 'x\n", "no valid YAML: while scanning a quoted scalar"),
        ("a: \x07\n", " no valid YAML: unacceptable character #x0007"),
        ("a: 1\n---\nb: 2\n", "2:1: a second document begins here"),
        ("a: &x 1\nb: *x\n", "1:4: &x: anchors and aliases are refused"),
        ("a: &x [y]\nb: 2\n", "1:4: &x: anchors and aliases are refused"),
        ("a: *x\n", "1:4: *x: anchors and aliases are refused"),
        (
            "a: !!python/object/apply:os.system [true]\n",
            "1:4: the tag tag:yaml.org,2002:python/object/apply:os.system is",
        ),
        ("a: !Foo 3\n", "1:4: the tag !Foo is refused; write plain values"),
        ("a: " + 30 * "[" + 30 * "]", "nested more than 12 levels deep"),
        ("a: " + 30_000 * "[", "nested more than 12 levels deep"),
    ],
)
def test_what_is_no_recipe_at_all(tmp_path: Path, text: str, expected: str) -> None:
    (found,) = _faults(tmp_path, text)
    assert expected in found
    if expected[0].isdigit():
        assert found.startswith(expected)


def test_an_alias_bomb_is_refused_before_it_grows(tmp_path: Path) -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
    (found,) = _faults(tmp_path, bomb)
    assert found.startswith("1:5: &a0: anchors and aliases are refused")


def test_absurd_numbers_are_just_wrong(tmp_path: Path) -> None:
    (found,) = _faults(tmp_path, GOOD + f"seed: {'9' * 5000}\n")
    assert found.startswith("5:7: seed is ")


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"no\.yaml cannot be read: No such file"):
        Recipe.read(tmp_path / "no.yaml")
    with pytest.raises(FileError, match="cannot be read: Is a directory"):
        Recipe.read(tmp_path)
    file = tmp_path / "r.yaml"
    file.write_bytes(b"a: \xff\n")
    with pytest.raises(FileError, match=r"is no UTF-8 text \(byte 3\)"):
        Recipe.read(file)
    file.write_text("#" * (MAX_BYTES + 1))
    with pytest.raises(FileError, match="larger than 64 KiB"):
        Recipe.read(file)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("no_such_module:f", "there is no module 'no_such_module'; run gracile in the folder that holds it"),
        ("torch.no_such:f", "there is no module 'torch.no_such'"),
        ("failing_MODULE:f", "importing failing_MODULE failed: ModuleNotFoundError: No module named 'no_such_depe"),
        ("exiting_MODULE:f", "importing exiting_MODULE failed: SystemExit: 3"),
        ("MODULE:modle", "MODULE has no attribute 'modle'; did you mean model?"),
        ("MODULE:ready.wight", "MODULE.ready has no attribute 'wight'; did you mean weight?"),
        ("MODULE:batches", "'MODULE:batches' is a list; name a torch.nn.Module, or a function without arguments that"),
        ("MODULE:number", "MODULE:number() returned a int; it must return a torch.nn.Module"),
        ("MODULE:broken", "MODULE:broken() failed: ValueError: no weights here ("),
        ("MODULE:demanding", "MODULE:demanding() failed: TypeError: demanding() missing 1 required"),
    ],
)
def test_factories_that_fail(tmp_path: Path, module: str, reference: str, expected: str) -> None:
    reference, expected = (text.replace("MODULE", module) for text in (reference, expected))
    recipe = Recipe.read(_write(tmp_path, GOOD.replace("a:b", reference).replace("a:c", f"{module}:evaluate")))
    with pytest.raises(RecipeError) as caught:
        recipe.job()
    assert str(caught.value).startswith(f"{tmp_path / 'r.yaml'}:1:8: model: ")
    assert expected in str(caught.value)


def test_all_failing_references_come_at_once(tmp_path: Path, module: str) -> None:
    text = GOOD.replace("a:b", f"{module}:nothing").replace("a:c", f"{module}:batches")
    recipe = Recipe.read(_write(tmp_path, text + f"calibration: {module}:number\n"))
    with pytest.raises(RecipeError) as caught:
        recipe.job()
    model, evaluate, calibration = str(caught.value).splitlines()
    assert "1:8: model: " in model
    assert f"3:11: evaluate: '{module}:batches' is a list; name a function" in evaluate
    assert f"5:14: calibration: {module}:number() returned a int; it must return an iterable of batches" in calibration


def test_options_of_a_search(tmp_path: Path) -> None:
    text = "search: {kind: sensitivity, options: {sparsities: [0.2, 0.4], step: 0.2}}\n"
    search = Recipe.read(_write(tmp_path, GOOD + text)).search.search()
    assert search == Search(kind="sensitivity", options=Sensitivity(sparsities=(0.2, 0.4), step=0.2))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("search: {kind: tar, options: {step: 0.2}}\n", "the search 'tar' has none"),
        ("search: {kind: netadapt, options: {stepp: 0.2}}\n", "has no option 'stepp'; it has step, decay, fine_tune"),
        ("search: {kind: netadapt, options: {step: 2}}\n", "step is 2; it is a number in"),
    ],
)
def test_refused_options_of_a_search(tmp_path: Path, line: str, message: str) -> None:
    (found,) = _faults(tmp_path, GOOD + line)
    assert message in found


def test_int8_alone_needs_no_target(tmp_path: Path, module: str) -> None:
    text = f"model: {module}:model\ninputs: [[1, 3]]\nevaluate: {module}:evaluate\ncalibration: {module}:batches\n"
    job = Recipe.read(_write(tmp_path, text + "method: int8\n")).job()
    assert (job.options["method"], job.options["target"]) == ("int8", None)
    with pytest.raises(RecipeError, match="target is missing"):
        Recipe.read(_write(tmp_path, text + "method: prune+int8\n"))


OWN = """
import gracile

def lowest(problem):
    return [0 for _ in problem.columns]

gracile.register_search("{name}_lowest", lowest)
gracile.register_metric("{name}_energy", lambda operation: operation.macs)
gracile.register_method("{name}_method", lambda model, graph: {{}})
"""


@pytest.fixture
def own(module: str, tmp_path: Path) -> Iterator[str]:
    """A module that registers a search, a metric and a method when it is imported."""
    kept = [(known, dict(known)) for known in (OWN_SEARCHES, OWN_METHODS, OWN_METRICS)]
    name = f"own_{module}"
    (tmp_path / f"{name}.py").write_text(f"from {module} import *\n{OWN.format(name=name)}")
    yield name
    for known, before in kept:
        known.clear()
        known.update(before)


def test_names_that_a_module_of_the_recipe_registers(own: str, tmp_path: Path) -> None:
    text = f"""\
        model: {own}:model
        inputs: [[1, 3]]
        evaluate: {own}:evaluate
        target: {{own: {{{own}_energy: 0.5}}}}
        method: prune+{own}_method
        search: {{kind: {own}_lowest, candidates: 4}}
        """
    recipe = Recipe.read(_write(tmp_path, text))
    assert f"{own}_lowest" not in OWN_SEARCHES
    options = recipe.job().options
    assert options["search"] == Search(kind=f"{own}_lowest", candidates=4)
    assert options["target"] == Target(own={f"{own}_energy": 0.5})
    assert options["method"] == f"prune+{own}_method"


def test_names_that_nobody_registers_are_refused_with_those_that_are_known(own: str, tmp_path: Path) -> None:
    text = f"""\
        model: {own}:model
        inputs: [[1, 3]]
        evaluate: {own}:evaluate
        target: {{own: {{energi: 0.5}}}}
        method: prune+svd
        search: gredy
        """
    recipe = Recipe.read(_write(tmp_path, text))
    with pytest.raises(RecipeError) as caught:
        recipe.job()
    target, method, search = str(caught.value).splitlines()
    assert f"4:15: no metric was registered as 'energi'; those that were: {own}_energy" in target
    assert "5:9: method is 'prune+svd'; it is one of weight_svd" in method
    assert f"{own}_method" in method
    assert "6:9: search is 'gredy'; it is one of greedy, tar" in search
    assert f"{own}_lowest" in search
