import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.optional import optional
from test_demo import TINY

import gracile
from gracile.cli import app, jobs, main
from gracile.demo import run_demo
from gracile.registered import OWN_METRICS, OWN_SEARCHES

MODULE = """
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3)
    return nn.Sequential(first, nn.ReLU(), second, nn.Flatten(), nn.Linear(576, 4))

batches = [torch.ones(2, 3, 8, 8)]

def largest(matrix):
    return matrix.abs().amax(1)

def embedding():
    return nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 2))

def evaluate(model):
    return -float(model(torch.ones(1, 3, 8, 8)).square().mean())
"""

RECIPE = """
model: MODULE:model
inputs: [[1, 3, 8, 8]]
evaluate: MODULE:evaluate
target: {macs: 0.6}
search: tar
exclude: ["nothing*"]
output: small
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the current folder."""
    name = f"cli_module_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("MODULE", name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "200")
    return name


def _run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    code = caught.value.code
    assert isinstance(code, int)
    return code


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("--version") == 0
    assert capsys.readouterr().out == f"gracile {gracile.__version__}\n"


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("--help") == 0
    text = capsys.readouterr().out
    assert all(
        command in text
        for command in (
            "demo",
            "profile",
            "compress",
            "prune",
            "quantize",
            "export",
            "benchmark",
            "report",
            "watch",
            "inspect",
            "schema",
            "completion",
            "--version",
            "Exit status",
        )
    )


def test_profile(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("profile", f"{module}:model", "--input", "1,3,8,8") == 0
    text = capsys.readouterr().out
    assert "conv2d" in text
    assert "total" in text


def test_profile_as_json(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("profile", f"{module}:model", "--input", "2, 3, 8, 8", "--json") == 0
    out, err = capsys.readouterr()
    data = json.loads(out)
    assert err == ""
    assert data["macs"] == 16 * 27 * 64 + 16 * 144 * 36 + 576 * 4
    assert data["batch"] == 2
    assert [layer["name"] for layer in data["layers"]] == ["0", "2", "4"]
    assert data["uncounted"] == [{"op": "aten.relu.default", "calls": 1, "known": True}]


def test_profile_of_whole_numbers(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("profile", f"{module}:embedding", "--input", "1,7", "--dtype", "int64", "--json") == 0
    assert json.loads(capsys.readouterr().out)["macs"] == 7 * 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "1,x"], "'1,x' is no shape; give positive sizes with commas between, as in 1,3,224,224"),
        (["--input", "1,0"], "'1,0' is no shape"),
        (["--input", ""], "'' is no shape"),
        (["--input", "1", "--dtype", "float"], "'float' is none of float32, float64"),
        (["--input", "1", "--dtype", "int64", "--dtype", "int64"], "2 dtypes for 1 inputs; give one for all, or one"),
        ([], "Missing option '--input'"),
        (["--input", "1", "--inpt", "1"], "No such option"),
    ],
)
def test_wrong_usage(module: str, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert _run("profile", f"{module}:model", *arguments) == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("nonsense", "gracile: 'nonsense' names no object: a reference has the form \"package.module:attribute\""),
        ("my_net.py:f", "gracile: 'my_net.py:f': name the module, not its file: my_net:f"),
        ("nonsense:f", "gracile: 'nonsense:f': there is no module 'nonsense'; run gracile in the folder"),
        ("torch:no_such", "gracile: 'torch:no_such': torch has no attribute 'no_such'"),
        ("torch:pi", "gracile: 'torch:pi' is a float; name a torch.nn.Module"),
    ],
)
def test_errors_are_one_message(capsys: pytest.CaptureFixture[str], reference: str, message: str) -> None:
    assert _run("profile", reference, "--input", "1") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(message)
    assert "Traceback" not in err


def test_a_model_that_cannot_be_captured(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("profile", f"{module}:model", "--input", "1,4,8,8") == 1
    assert (
        "torch.export could not capture Sequential with inputs of the shapes [(1, 4, 8, 8)]" in capsys.readouterr().err
    )


def test_compress(module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("compress", "recipe.yaml") == 0
    out, err = capsys.readouterr()
    assert "Sequential: spatial_svd, tar ratios" in out
    assert out.count("exclude: 'nothing*' matches no layer") == 1
    assert out.endswith(f"saved in {tmp_path / 'small'}\n")
    assert err == ""
    job = __import__(module)
    loaded = gracile.load(tmp_path / "small", job.model())
    assert gracile.profile(loaded, torch.zeros(1, 3, 8, 8)).macs <= 0.6 * 112_896 + 1


def test_compress_as_json_elsewhere(module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("compress", "recipe.yaml", "--output", "other", "--json") == 0
    assert json.loads(capsys.readouterr().out)["method"] == "spatial_svd"
    assert (tmp_path / "other" / "plan.json").exists()
    assert not (tmp_path / "small").exists()


def test_compress_refuses_what_would_fail_in_the_end(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def untouched(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing may be computed")

    monkeypatch.setattr(jobs, "compress", untouched)
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "thesis.tex").touch()
    assert _run("compress", "recipe.yaml") == 1
    assert "small holds other files (thesis.tex)" in capsys.readouterr().err
    assert _run("compress", "recipe.yaml", "--output", "recipe.yaml") == 1
    assert "recipe.yaml is a file; give a folder" in capsys.readouterr().err
    assert _run("compress", "recipe.yaml", "--output", "recipe.yaml/below") == 1
    assert "recipe.yaml cannot be written; give another folder" in capsys.readouterr().err
    assert _run("compress", "recipe.yaml", "--output", "new", "--onnx", ".") == 1
    assert "path is the folder .; give the name of a file" in capsys.readouterr().err
    assert _run("compress", "recipe.yaml", "--output", "new", "--onnx", "recipe.yaml/small.onnx") == 1
    assert "recipe.yaml cannot be written; give another file" in capsys.readouterr().err
    file = tmp_path / "recipe.yaml"
    file.write_text(file.read_text().replace("output: small\n", ""))
    assert _run("compress", "recipe.yaml") == 1
    assert "recipe.yaml names no output folder; add for example output: runs/small" in capsys.readouterr().err


def test_faults_of_a_recipe_begin_with_its_place(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(file.read_text().replace("search: tar", "search: a+b").replace("exclude", "exclud"))
    assert _run("compress", "recipe.yaml") == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == (
        "recipe.yaml:6:9: search is 'a+b'; give one of greedy, tar, exact, annealing, netadapt, sensitivity, amc, or "
        "the name of one that was registered"
    )
    assert second == "recipe.yaml:7:1: there is no field exclud; did you mean exclude?"
    # What might be registered is looked up behind the imports.
    file.write_text(file.read_text().replace("a+b", "gredy").replace("exclud", "exclude"))
    assert _run("compress", "recipe.yaml") == 1
    assert capsys.readouterr().err.startswith("recipe.yaml:6:9: search is 'gredy'; it is one of greedy, tar, exact")


def test_warnings_of_the_library_reach_the_user(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(file.read_text().replace("target: {macs: 0.6}", 'ratios: {"2": 0.5, "no*": 0.5}'))
    assert _run("compress", "recipe.yaml") == 0
    out, err = capsys.readouterr()
    assert "'no*' matches no layer" in out + err
    assert not logging.getLogger("gracile").handlers


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "run_demo", lambda console, **options: run_demo(console, settings=TINY, **options))
    assert _run("demo", "--output", str(tmp_path / "small"), "--seed", "2") == 0
    assert "bit-equal on all test images" in capsys.readouterr().out
    assert json.loads((tmp_path / "small" / "report.json").read_text())["environment"]["seed"] == 2


def test_demo_refuses_a_used_folder_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").touch()
    assert _run("demo", "--output", str(tmp_path)) == 1
    assert "holds other files (x)" in capsys.readouterr().err
    assert _run("demo", "--data", "mnist") == 2
    assert "fashion-mnist" in capsys.readouterr().err


def test_as_a_module_from_the_current_folder(module: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gracile", "profile", f"{module}:model", "--input", "1,3,8,8"],
        cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "total" in done.stdout


def test_report_watch_and_inspect(module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("plotly", reason="pip install 'gracile[report]'")
    recipe = (tmp_path / "recipe.yaml").read_text()
    (tmp_path / "recipe.yaml").write_text(recipe.replace("search: tar", "search: exact") + "store: runs.db\n")
    assert _run("compress", "recipe.yaml") == 0
    capsys.readouterr()
    assert _run("report", "small") == 0
    assert capsys.readouterr().out == "small/report.html\n"
    assert "Evaluation dictionary" in (tmp_path / "small" / "report.html").read_text(encoding="utf-8")
    assert _run("report", "small/report.json", "--output", "page.html") == 0
    assert (tmp_path / "page.html").read_bytes() == (tmp_path / "small" / "report.html").read_bytes()
    capsys.readouterr()
    assert _run("report", "small", "--json") == 0
    assert json.loads(capsys.readouterr().out)["method"] == "spatial_svd"

    assert _run("watch", "runs.db", "--once") == 0
    assert capsys.readouterr().out == "runs.db.html\n"
    assert "1 spatial svd" in (tmp_path / "runs.db.html").read_text(encoding="utf-8")

    assert _run("inspect", "small") == 0
    assert "factorize" in capsys.readouterr().out
    assert _run("inspect", "small", "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["plan"]["edits"][0]["edit"] == "factorize"
    assert data["report"]["search"] == "exact"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["report", "nowhere"], 1, "gracile: there is no nowhere; give a folder that"),
        (["report", "."], 1, "gracile: there is no report.json; give a folder that"),
        (["export", "MODULE:model", "--from", "nowhere", "--input", "1,3,8,8", "--output", "x"], 1, "nowhere is no"),
        (["watch", "nowhere.db", "--once"], 1, "gracile: there is no store nowhere.db yet"),
        (["watch", "nowhere/runs.db"], 1, "gracile: there is no store nowhere/runs.db, as there is no folder"),
        (["watch", "x.db", "--output", "x.html"], 2, "goes with --once"),
        (["inspect", "nowhere"], 1, "gracile: nowhere is no folder"),
    ],
)
def test_what_is_not_there(
    module: str, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, message: str
) -> None:
    assert _run(*(argument.replace("MODULE", module) for argument in arguments)) == status
    assert message in capsys.readouterr().err


def test_compress_to_integers_and_an_onnx_file(module: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    recipe = tmp_path / "recipe.yaml"
    text = recipe.read_text().replace("target: {macs: 0.6}\nsearch: tar", "method: int8")
    recipe.write_text(f"{text}calibration: {module}:batches\n")
    assert _run("compress", "recipe.yaml", "--onnx", "small.onnx") == 0
    assert "small.onnx" in [file.name for file in tmp_path.iterdir()]
    loaded = gracile.load(tmp_path / "small", sys.modules[module].model())
    assert isinstance(loaded, gracile.quant.Simulation)
    assert gracile.Report.read(tmp_path / "small" / "report.json").method == "int8"


def test_prune_quantize_export_and_benchmark(module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, shape = f"{module}:model", ("--input", "1,3,8,8")
    assert _run("prune", model, *shape, "--sparsity", "0.5", "--output", "pruned") == 0
    assert "MACs 112.9 k -> 35.71 k" in capsys.readouterr().out
    assert _run("profile", model, "--from", "pruned", *shape, "--json") == 0
    assert json.loads(capsys.readouterr().out)["macs"] == 8 * 27 * 64 + 8 * 72 * 36 + 288 * 4
    pytest.importorskip("onnxruntime")
    more = ("--calibration", f"{module}:batches", "--output", "int8", "--onnx", "int8.onnx", "--json")
    assert _run("quantize", model, "--from", "pruned", *shape, *more) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["quantizers"]["weight"] == 3
    assert data["onnx"]["bytes"] == (tmp_path / "int8.onnx").stat().st_size
    assert _run("export", model, "--from", "pruned", *shape, "--output", "small.onnx", "--json") == 0
    assert json.loads(capsys.readouterr().out)["error"] < 1e-4
    timed = ("--from", "pruned", "--onnx", "small.onnx", "--repeats", "2", "--json")
    assert _run("benchmark", model, *shape, *timed) == 0
    names = [entry["name"] for entry in json.loads(capsys.readouterr().out)["entries"]]
    assert names == ["original", "pruned", "small.onnx"]
    assert _run("benchmark", model, *shape, "--from", "pruned", "--repeats", "1", "--layers", "--json") == 0
    layers = json.loads(capsys.readouterr().out)["layers"]["pruned"]["layers"]
    assert [layer["name"] for layer in layers] == ["0", "2", "4"]
    assert _run("benchmark", model, *shape, "--layers") == 2
    assert "goes with --from" in capsys.readouterr().err
    assert _run("benchmark", model, *shape, "--from", "pruned", "--from", "pruned") == 1
    assert "pruned is given twice" in capsys.readouterr().err


def test_prune_as_json_to_a_target(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--macs", "0.6", "--criterion", f"{module}:largest", "--output", "pruned", "--json")
    assert _run("prune", f"{module}:model", "--input", "1,3,8,8", *more) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["before"]["macs"] == 112_896
    assert data["after"]["macs"] <= 0.6 * 112_896
    assert data["plan"]["edits"]


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        ([], 2, "give one of --sparsity, --macs and --params, not none"),
        (["--sparsity", "0.5", "--macs", "0.5"], 2, "not --sparsity and --macs"),
        (["--sparsity", "1.0"], 1, "1.0"),
        (["--macs", "2"], 1, "macs=2.0: a ratio is a number in (0, 1]"),
        (["--sparsity", "0.5", "--criterion", "l3"], 1, "criterion is 'l3'; it is one of"),
        (["--sparsity", "0.5", "--from", "nowhere"], 1, "nowhere"),
    ],
)
def test_prune_refuses(
    module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], status: int, message: str
) -> None:
    assert _run("prune", f"{module}:model", "--input", "1,3,8,8", "--output", "pruned", *more) == status
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not (tmp_path / "pruned").exists()


def test_every_command_has_json_and_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    names = [command.name for command in app.registered_commands]
    assert len(names) == 12
    for name in names:
        assert _run(str(name), "--help") == 0
        text = capsys.readouterr().out
        assert "--json" in text, name
        assert f"gracile {name}" in text.partition("Example")[2], name


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["gracile", "pr"], "profile prune"),
        (["gracile", "demo", "--data", ""], "digits fashion-mnist"),
        (["gracile", "export", "--op"], "--opset"),
        (["gracile", "completion", "f"], "fish"),
        (["gracile", "completion", ""], "bash zsh fish"),
        (["gracile", "compress", "--ou"], "--output"),
        (["gracile", "prune", "x", "--scope", ""], "layer global"),
        # No word of gracile's, so that the shell offers files.
        (["gracile", "compress", ""], ""),
        (["gracile", "report", "r"], ""),
        (["gracile", "compress", "recipe.yaml", "--output", ""], ""),
        (["gracile", "nothing", ""], ""),
    ],
)
def test_bash_completes(capsys: pytest.CaptureFixture[str], words: list[str], expected: str) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    assert _run("completion", "bash") == 0
    given = " ".join(f"'{word}'" for word in words)
    asked = f"COMP_WORDS=({given}); COMP_CWORD={len(words) - 1}; _gracile; echo ${{COMPREPLY[@]}}"
    asked += "; complete -p gracile"
    script = f"{capsys.readouterr().out}\n{asked}"
    done = subprocess.run([bash, "--norc", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [expected, "complete -o default -F _gracile gracile"]
    assert not done.stderr


def test_completion_for_other_shells(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("completion", "fish") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("seen_subcommand_from prune'" in line and "-a 'layer global'" in line for line in lines)
    assert _run("completion", "zsh", "--json") == 0
    assert "bashcompinit" in json.loads(capsys.readouterr().out)["script"]


@pytest.mark.parametrize(
    ("shell", "asked", "expected"),
    [
        ("zsh", "print $_comps[gracile]", "_bash_complete -o default -F _gracile"),
        ("fish", "complete -C 'gracile pr'", "profile prune"),
        ("fish", "complete -C 'gracile prune --scope '", "global layer"),
        ("fish", "complete -C 'gracile export --ops'", "--opset"),
    ],
)
def test_other_shells_take_their_scripts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, shell: str, asked: str, expected: str
) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"there is no {shell}")
    assert _run("completion", shell) == 0
    script = f"{capsys.readouterr().out}\n{asked}"
    bare = ["-f"] if shell == "zsh" else ["--no-config"]
    done = subprocess.run(
        [program, *bare, "-c", script], capture_output=True, text=True, check=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    found = [line.partition("\t")[0] for line in done.stdout.splitlines()]
    assert " ".join(sorted(found)) == expected


def test_an_interrupt_has_a_status_of_its_own(monkeypatch: Any) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "run_demo", interrupted)
    assert _run("demo") == 130


NOTING = """
import os
import gracile
from {module} import *
from {module} import evaluate as score
from pathlib import Path

def noting(model):
    Path("pids").mkdir(exist_ok=True)
    (Path("pids") / str(os.getpid())).touch()
    return score(model)

def evenly(problem):
    levels = [column.dense for column in problem.columns]
    while problem.cost(levels) > problem.bound:
        levels = [max(column.floor, level - 1) for column, level in zip(problem.columns, levels)]
    return levels

gracile.register_search("{module}_evenly", evenly)
gracile.register_metric("{module}_traffic", lambda operation: operation.weights + operation.read + operation.written)
"""


@pytest.fixture
def noting(module: str, tmp_path: Path) -> Iterator[str]:
    """A module whose evaluation function leaves the numbers of its processes; it registers a search and a metric."""
    kept = [(known, dict(known)) for known in (OWN_SEARCHES, OWN_METRICS)]
    name = f"noting_{module}"
    (tmp_path / f"{name}.py").write_text(NOTING.format(module=module))
    recipe = (tmp_path / "recipe.yaml").read_text().replace(f"{module}:", f"{name}:")
    recipe = recipe.replace("search: tar", "search: {kind: exact, candidates: 3}")
    (tmp_path / "recipe.yaml").write_text(
        recipe.replace(":evaluate\n", ":score\n") + f"evaluate_search: {name}:noting\n"
    )
    yield name
    for known, before in kept:
        known.clear()
        known.update(before)


def _outcome(folder: Path) -> tuple[str, Any, Any, set[str]]:
    """The plan, the dictionary and the score that were saved, and who has evaluated."""
    report = json.loads((folder / "report.json").read_text())
    pids = {path.name for path in Path("pids").iterdir()} - {str(os.getpid())}
    shutil.rmtree("pids")
    return (folder / "plan.json").read_text(), report["dictionary"], report["score_after"], pids


def test_jobs_change_who_evaluates_and_not_the_result(noting: str, tmp_path: Path) -> None:
    assert _run("compress", "recipe.yaml", "--output", "alone") == 0
    *alone, nobody = _outcome(tmp_path / "alone")
    assert alone[1]
    assert not nobody
    assert _run("compress", "recipe.yaml", "--output", "two", "--jobs", "2") == 0
    *two, workers = _outcome(tmp_path / "two")
    assert two == alone
    assert 1 <= len(workers) <= 2


def test_ray_is_an_executor_of_the_command_line(noting: str, tmp_path: Path) -> None:
    optional("ray")
    assert _run("compress", "recipe.yaml", "--output", "alone") == 0
    *alone, _ = _outcome(tmp_path / "alone")
    assert _run("compress", "recipe.yaml", "--output", "ray", "--jobs", "2", "--executor", "ray") == 0
    *found, workers = _outcome(tmp_path / "ray")
    assert found == alone
    assert 1 <= len(workers) <= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--jobs", "0"), "n_jobs is 0; give how many candidates are scored at a time, at least 1"),
        (("--executor", "threads"), "executor is 'threads'; it is one of processes, ray"),
    ],
)
def test_executors_that_there_are_none(module: str, capfd: pytest.CaptureFixture[str], arguments, message) -> None:
    assert _run("compress", "recipe.yaml", *arguments) == 1
    assert message in capfd.readouterr().err.replace("\n", " ")


def test_a_search_and_a_metric_of_ones_own_on_the_command_line(noting: str, module: str, tmp_path: Path) -> None:
    recipe = (tmp_path / "recipe.yaml").read_text().replace("kind: exact", f"kind: {module}_evenly")
    (tmp_path / "recipe.yaml").write_text(recipe.replace("{macs: 0.6}", f"{{own: {{{module}_traffic: 0.9}}}}"))
    assert _run("compress", "recipe.yaml", "--output", "own", "--jobs", "2") == 0
    report = gracile.Report.read(tmp_path / "own" / "report.json")
    assert report.search == f"{module}_evenly"
    assert report.own.name == report.metric == f"{module}_traffic"
    assert report.own.ratio <= 0.9 * (1 + 1e-6)
    (tmp_path / "recipe.yaml").write_text(recipe.replace(f"{module}_evenly", "unevenly"))
    assert _run("compress", "recipe.yaml", "--output", "other") == 1
