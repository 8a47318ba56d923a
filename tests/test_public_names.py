import inspect
import pkgutil
import subprocess
import sys

import gracile


def test_all_is_sorted_and_complete():
    assert gracile.__all__ == sorted(gracile.__all__)
    public = {
        name
        for name, value in vars(gracile).items()
        if not name.startswith("_") and not (inspect.ismodule(value) and name not in gracile.__all__)
    }
    assert public == set(gracile.__all__)


def test_no_public_function_bears_the_name_of_a_module_beside_it():
    modules = {found.name for found in pkgutil.iter_modules(gracile.__path__)}
    functions = {name for name in gracile.__all__ if inspect.isfunction(getattr(gracile, name))}
    assert not modules & functions


def test_every_public_function_says_what_it_raises():
    for name in gracile.__all__:
        value = getattr(gracile, name)
        if inspect.isfunction(value) and name != "applied_plan":
            assert "Raises:" in (value.__doc__ or ""), name


def test_importing_is_quiet_and_needs_no_extras():
    extras = {"accelerate", "lightning", "transformers", "onnx", "ray", "plotly", "matplotlib", "torchvision"}
    code = f"import sys, gracile; print(sorted({extras} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert not done.stderr
