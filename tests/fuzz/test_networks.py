"""Random networks: what is cut equals the zeroed original, costs what the plan says, and comes back from the disk."""

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from fuzz.networks import specs
from fuzz.sequences import sequence_specs
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from support.optional import optional

import gracile
from gracile.export.checkpoint import save
from gracile.testing import equivalence

COUNT = settings().max_examples
# Networks on images, and on sequences.
NETWORKS = st.one_of(specs(), sequence_specs())


@settings(max_examples=2 * COUNT // 3)
@given(
    NETWORKS,
    st.sampled_from(("l1", "l2", "fpgm", "random")),
    st.sampled_from((0.25, 0.5, 0.8)),
    st.sampled_from(("layer", "global")),
    st.sampled_from((1, 2, "auto")),
)
def test_pruning(spec, criterion, sparsity, scope, round_to):
    model, inputs = spec.build(), spec.inputs()
    graph = gracile.capture(model, inputs)
    plan = gracile.prune.plan(
        model,
        graph,
        criterion=criterion,
        sparsity=sparsity,
        scope=scope,
        round_to=round_to,
        seed=spec.seed,
        verify=False,
    )
    event("cuts" if plan.edits else "cuts nothing")
    found = equivalence(model, plan, inputs)
    assert found.error <= found.tolerance
    _holds(spec, plan, graph, inputs)


@settings(max_examples=COUNT // 3)
@given(
    st.one_of(
        st.tuples(NETWORKS, st.just("weight_svd")),
        st.tuples(specs(), st.just("spatial_svd")),
    ),
    st.sampled_from((0.3, 0.6)),
)
def test_factorizing(case, ratio):
    spec, method = case
    # It needs a convolution of one group.
    assume(method == "weight_svd" or any(block.kind != "depthwise" for block in spec.blocks))
    model, inputs = spec.build(), spec.inputs()
    graph = gracile.capture(model, inputs)
    plan = gracile.lowrank.plan(model, graph, method=method, ratios={"*": ratio})
    _holds(spec, plan, graph, inputs)


@settings(max_examples=COUNT // 10)
@given(NETWORKS, st.booleans())
def test_exporting(spec, dynamic_batch):
    """Files of what was pruned, and of that in integers, compute what torch does."""
    optional("onnxscript")
    optional("onnxruntime")
    model, inputs = spec.build(), spec.inputs()
    small = gracile.apply(model, gracile.prune.plan(model, inputs, sparsity=0.5, seed=spec.seed, verify=False))
    simulation = gracile.quantize(small, inputs, calibration=[inputs])
    with tempfile.TemporaryDirectory() as folder:
        floats = gracile.export.to_onnx(small, inputs, Path(folder) / "floats.onnx", dynamic_batch=dynamic_batch)
        integers = gracile.export.to_onnx(simulation, inputs, Path(folder) / "integers.onnx")
    assert floats.error <= 1e-4
    assert integers.steps <= 1


def _holds(spec, plan, graph, inputs):
    assert gracile.Plan.from_json(plan.to_json()) == plan
    model = spec.build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small = gracile.apply(model, plan)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    priced, counted = plan.cost(graph), gracile.profile(small, inputs)
    assert (priced.macs, priced.params, priced.bytes) == (counted.macs, counted.params, counted.bytes)
    with tempfile.TemporaryDirectory() as folder:
        saved = save(Path(folder) / "small", small)
        loaded = gracile.load(saved, replace(spec, seed=spec.seed + 1).build())
    values, expected = loaded.state_dict(), small.state_dict()
    assert values.keys() == expected.keys()
    assert all(torch.equal(values[name], expected[name]) for name in expected)
    with torch.no_grad():
        assert torch.equal(loaded(inputs), small(inputs))
    assert gracile.applied_plan(loaded) == gracile.applied_plan(small)
