"""Damaged and hostile files: every reader gives a named error or reads what is still whole; it never runs code."""

import contextlib
import copy
import functools
import json
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import gracile
from gracile.errors import GracileError
from gracile.export.checkpoint import PLAN, WEIGHTS, save
from gracile.export.saved import inspect
from gracile.recipe_file import Recipe
from gracile.store import Store

RECIPE = b"""model: gracile.demo:SmallNet
inputs: [[1, 1, 8, 8]]
evaluate: gracile.demo:score
target: {macs: 0.5}
search: {kind: exact, candidates: 10}
exclude: ["stem.*"]
seed: 0
output: runs/small
"""


def network():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 4)).eval()


@functools.cache
def files():
    """The bytes of each kind of file, whole."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = network()
        plan = gracile.prune.plan(model, torch.zeros(1, 3, 8, 8), sparsity=0.5, round_to=1)
        small = gracile.apply(model, plan)
        small = gracile.apply(
            small, gracile.lowrank.plan(small, torch.zeros(1, 3, 8, 8), method="weight_svd", ratios={"4": 0.5})
        )
        save(folder / "small", small)
        with Store(folder / "store.db") as store:
            job = store.job({"method": "spatial_svd"}, 0.5)
            for size in range(1, 20):
                job.put("conv", size, size / 20)
            exported = store.to_json().encode()
        return {
            PLAN: (folder / "small" / PLAN).read_bytes(),
            WEIGHTS: (folder / "small" / WEIGHTS).read_bytes(),
            "store.db": (folder / "store.db").read_bytes(),
            "store.json": exported,
            "recipe.yaml": RECIPE,
        }


def damaged(name):
    """The bytes of a file with some of them changed, removed, repeated or put in."""
    return st.lists(
        st.tuples(
            st.sampled_from(("change", "cut", "insert", "repeat", "digit")),
            st.floats(0, 1),
            st.binary(min_size=1, max_size=8),
        ),
        min_size=1,
        max_size=6,
    ).map(functools.partial(_damage, name))


def _damage(name, steps):
    data = bytearray(files()[name])
    for what, place, put in steps:
        at = int(place * max(0, len(data) - 1))
        if what == "change":
            data[at : at + len(put)] = put
        elif what == "cut":
            del data[at : at + 3 * len(put) if put[0] % 4 else None]
        elif what == "insert":
            data[at:at] = put
        elif what == "repeat":
            data[at:at] = data[at : at + 32] * (put[0] % 4)
        else:
            # A number somewhere becomes another: files that stay well-formed are the harder ones.
            places = [i for i, byte in enumerate(data) if chr(byte).isdigit()]
            if places:
                data[places[int(place * (len(places) - 1))]] = ord("0") + put[0] % 10
    return bytes(data)


def _read(name, data):
    """Read a file of this kind with these bytes."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / name).write_bytes(data)
        if name == "recipe.yaml":
            Recipe.read(folder / name)
        elif name == "store.json":
            with Store() as store:
                store.read_json(data.decode("utf-8", "replace"))
                store.to_json()
        elif name == "store.db":
            with Store(folder / name) as store:
                store.to_json()
                store.job({"method": "spatial_svd"}, 0.5).put("conv", 99, 0.5)
        else:
            for other in {PLAN, WEIGHTS} - {name}:
                (folder / other).write_bytes(files()[other])
            try:
                inspect(folder)
            finally:
                gracile.load(folder, network())


@pytest.mark.parametrize("name", [PLAN, WEIGHTS, "store.db", "store.json", "recipe.yaml"])
@given(data=st.data())
def test_damage_is_a_named_error(name, data):
    made = data.draw(damaged(name))
    with contextlib.suppress(GracileError):
        _read(name, made)


@pytest.mark.parametrize("name", [PLAN, WEIGHTS, "store.db", "store.json", "recipe.yaml"])
@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_named_error(name, data):
    with contextlib.suppress(GracileError):
        _read(name, data)


# Values where a plan has others.
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5),
    st.sampled_from(("", "0", "4.weight", "__class__", "../x", "forward")), st.lists(st.integers(-2, 200), max_size=4),
)  # fmt: skip


@functools.cache
def plan_of_integers():
    """With a program, quantizers, and a batch-norm that was folded."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    inputs = torch.zeros(1, 3, 8, 8)
    return model, gracile.applied_plan(gracile.quantize(model, inputs, calibration=[torch.ones(2, 3, 8, 8)]))


def _places(value, path=()):
    """The paths of all values inside."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield (*path, key)
        yield from _places(part, (*path, key))


# Values where a program has others, beside those of plans.
FORMS = st.sampled_from((
    {}, {"ref": "nope"}, {"ref": {}}, {"tensor": "nope"}, {"tensor": "__class__"}, {"batch": "x"}, {"tuple": 3},
    {"float": "x"}, {"dtype": "load"}, {"eval": 1, "train": 2}, [2**20, 2**20], "aten.relu_.default", "getitem",
    "aten.__class__.__call__",
))  # fmt: skip


@given(st.data())
def test_simulations_with_other_values_are_refused_or_made(data):
    model, plan = plan_of_integers()
    text = json.loads(plan.to_json())
    *above, last = data.draw(st.sampled_from(list(_places(text["edits"]))))
    functools.reduce(lambda value, key: value[key], above, text["edits"])[last] = data.draw(st.one_of(ODD, FORMS))
    with contextlib.suppress(GracileError):
        gracile.apply(model, gracile.Plan.from_json(json.dumps(text)))


@given(st.data())
def test_plans_with_other_values_are_refused_or_applied(data):
    plan = copy.deepcopy(json.loads(files()[PLAN]))
    for _ in range(data.draw(st.integers(1, 3))):
        edit = data.draw(st.sampled_from(plan["edits"]))
        edit[data.draw(st.sampled_from(sorted(edit)))] = data.draw(ODD)
    with contextlib.suppress(GracileError):
        made = gracile.Plan.from_json(json.dumps(plan))
        assert gracile.Plan.from_json(made.to_json()) == made
        gracile.apply(network(), made)


def test_the_whole_files_are_read():
    for name, data in files().items():
        _read(name, data)
