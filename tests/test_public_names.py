import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gracile

ROOT = Path(gracile.__file__).parent
# Modules that say what they export; those that need an extra as soon as they are imported say nothing.
MODULES = [
    ".".join(("gracile", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for path in sorted(ROOT.rglob("*.py"))
    if "__all__ = [" in path.read_text()
]
REFERENCE = re.findall(r"^::: (\S+)", Path("docs/reference.md").read_text(), re.MULTILINE)
# What a user imports from; the other packages are parts of these.
PUBLIC = ("gracile", "gracile.prune", "gracile.lowrank", "gracile.quant", "gracile.train", "gracile.export",
          "gracile.testing")  # fmt: skip


def test_all_is_sorted_and_complete():
    assert gracile.__all__ == sorted(gracile.__all__)
    public = {
        name
        for name, value in vars(gracile).items()
        if not name.startswith("_") and not (inspect.ismodule(value) and name not in gracile.__all__)
    }
    assert public == set(gracile.__all__)


@pytest.mark.parametrize("name", MODULES)
def test_what_a_module_exports_exists_and_is_documented(name):
    module = importlib.import_module(name)
    exported = module.__all__
    assert len(set(exported)) == len(exported)
    assert [item for item in exported if item.startswith("_") or not hasattr(module, item)] == []
    values = {item: getattr(module, item) for item in exported}
    assert [
        item
        for item, value in values.items()
        if (inspect.isroutine(value) or inspect.isclass(value)) and not (value.__doc__ or "").strip()
    ] == []


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "gracile"])
def test_a_public_module_leaks_nothing(name):
    """What a package has besides its exports are its own modules; a module may also use what others define."""
    module = importlib.import_module(name)
    others = {
        item
        for item, value in vars(module).items()
        if not item.startswith("_") and item not in module.__all__ and not inspect.ismodule(value)
    }
    own = {item for item in others if getattr(vars(module)[item], "__module__", "") == name}
    assert (own if name == "gracile.testing" else others) == set()


def test_the_reference_names_what_is_exported_and_all_of_it():
    assert len(REFERENCE) == len(set(REFERENCE))
    for full in REFERENCE:
        module, _, name = full.rpartition(".")
        assert name in importlib.import_module(module).__all__, full
    shown = [getattr(importlib.import_module(full.rpartition(".")[0]), full.rpartition(".")[2]) for full in REFERENCE]
    missing = [
        f"{name}.{item}"
        for name in PUBLIC
        for item in importlib.import_module(name).__all__
        if not inspect.ismodule(value := getattr(importlib.import_module(name), item))
        and not any(value is other for other in shown)
    ]
    assert missing == []


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


def test_the_policy_of_deprecations_names_what_is_public():
    policy = Path("docs/deprecations.md").read_text()
    assert [
        name for name in PUBLIC if f"`{name.removeprefix('gracile.')}`" not in policy and f"`{name}" not in policy
    ] == []
    # As long as it says so, nothing public may warn.
    assert "Nothing is deprecated now." in policy
    assert not [path for path in ROOT.rglob("*.py") if "DeprecationWarning" in path.read_text()]
