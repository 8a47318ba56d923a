"""Capture, the run of the captured program, and record."""

import copy
import logging
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from topologies import TOPOLOGIES, ManyInputs, Residual, Shared, TiedLanguageModel
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gracile.cost import price
from gracile.errors import CaptureError, InputError
from gracile.graph import Graph, capture, eval_mode, fingerprint, fitted, record, run, tensors_of
from gracile.inputs import Inputs


class Calls(nn.Module):
    """A model whose forward is a function of itself and its inputs."""

    def __init__(self, function: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def copied(inputs: Any) -> Any:
    return pytree.tree_map_only(Tensor, torch.clone, inputs)


@torch.no_grad()
def outputs_of(model: nn.Module, inputs: Any) -> Any:
    # The fused path of transformer layers rounds differently.
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with eval_mode(model):
            return Inputs.of(copied(inputs)).call(model)
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def assert_equal(found: Any, wanted: Any) -> None:
    """Same structure, same values bit for bit."""
    leaves, structure = pytree.tree_flatten(found)
    wanted_leaves, wanted_structure = pytree.tree_flatten(wanted)
    assert structure == wanted_structure
    for leaf, other in zip(leaves, wanted_leaves, strict=True):
        if isinstance(other, Tensor):
            assert leaf.dtype == other.dtype
            assert torch.equal(leaf, other)
        else:
            assert leaf == other


def calls_of(graph: Graph, op: str) -> list[tuple[str, int]]:
    """The module path and call index of each call of an operator."""
    return [(node.module, node.call) for node in graph.calls if node.op == op]


# The program computes what the module computes


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_program_output_equals_module_output(name: str) -> None:
    topology = TOPOLOGIES[name]
    model, inputs = topology.make(), topology.inputs(2)
    wanted = outputs_of(model, inputs)
    graph = capture(model, inputs)
    assert graph.batch == 2
    with eval_mode(model):
        assert_equal(run(graph, model, Inputs.of(inputs)), wanted)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_record_shows_the_module_output_for_other_batch_sizes_and_labels(name: str) -> None:
    topology = TOPOLOGIES[name]
    model = topology.make()
    graph = capture(model, topology.inputs(2))
    # Some outputs are inputs or Python values; what nodes compute is what can be seen.
    refs = pytree.tree_leaves(graph.result, is_leaf=lambda leaf: hasattr(leaf, "name"))
    names = [ref.name if hasattr(ref, "name") else None for ref in refs]
    seen: dict[str, list[Tensor]] = {name: [] for name in names if name and graph.nodes[name].kind == "call"}
    # A node that works in place on what another one made would show the other's value changed.
    visitors = {name: lambda node, _args, output: seen[node.name].append(copied(output)) for name in seen}
    batches = [topology.inputs(3), (topology.inputs(2), torch.zeros(2)), topology.inputs(3)]
    wanted = [pytree.tree_leaves(outputs_of(model, batch)) for batch in (batches[0], batches[1][0], batches[2])]
    assert record(graph, model, visitors, batches) == 8
    for place, name in enumerate(names):
        if name in seen:
            assert_equal(seen[name], [leaves[place] for leaves in wanted])


def test_program_of_a_dynamic_batch_runs_other_batch_sizes() -> None:
    for name in ("residual", "shuffled", "attention_packed", "gru", "keyword_inputs", "many_outputs"):
        topology = TOPOLOGIES[name]
        model = topology.make().eval()
        graph = capture(model, topology.inputs(2), dynamic_batch=True)
        assert graph.dynamic_batch, name
        for batch in (1, 5):
            inputs = topology.inputs(batch)
            assert_equal(run(graph, model, Inputs.of(inputs)), outputs_of(model, inputs))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_capture_and_run_equal(dtype: torch.dtype) -> None:
    model, x = Residual().to(dtype), torch.randn(2, 3, 8, 8, dtype=dtype)
    wanted = outputs_of(model, x)
    graph = capture(model, x)
    assert {spec.dtype for name, spec in graph.tensors.items() if name.endswith("weight")} == {dtype}
    with eval_mode(model):
        found = run(graph, model, Inputs.of(x))
    assert found.dtype == dtype
    assert_equal(found, wanted)


def test_program_runs_with_the_values_that_the_model_has_now() -> None:
    model, x = nn.Linear(4, 3), torch.randn(2, 4)
    graph = capture(model, x)
    nn.init.constant_(model.weight, 0.5)
    assert_equal(run(graph, model, Inputs.of(x)), outputs_of(model, x))


def test_inputs_are_not_changed_by_a_program_that_works_in_place() -> None:
    topology = TOPOLOGIES["in_place"]
    model, x = topology.make().eval(), topology.inputs(2)
    before = x.clone()
    graph = capture(model, x)
    seen: list[Tensor] = []
    run(graph, model, Inputs.of(x))
    last = list(graph.calls)[-1].name
    record(graph, model, {last: lambda _node, _args, output: seen.append(output.clone())}, [x, x])
    assert torch.equal(x, before)
    assert_equal(seen[0], seen[1])


def test_partial_run_stops_when_every_visitor_was_called() -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), torch.randn(2, 4)
    graph = capture(model, x)
    first, relu, last = (node.name for node in graph.calls)
    seen: list[str] = []
    visitors = {first: lambda node, *_: seen.append(node.name), relu: lambda node, *_: seen.append(node.name)}
    assert run(graph, model, Inputs.of(x), visitors, partial=True) is None
    assert seen == [first, relu]
    visitors[last] = visitors[relu]
    assert run(graph, model, Inputs.of(x), visitors, partial=False) is not None


# What a Graph says


def test_inputs_may_be_a_tensor_a_tuple_or_keywords_in_any_order() -> None:
    model = ManyInputs()
    left, right, scale = TOPOLOGIES["many_inputs"].inputs(2)
    wanted = outputs_of(model, (left, right, scale))
    for example in ((left, right, scale), [left, right, scale], {"scale": scale, "left": left, "right": right}):
        graph = capture(model, example)
        assert sum(node.kind == "input" for node in graph.nodes.values()) == 3
        assert_equal(run(graph, model, Inputs.of(example)), wanted)


def test_python_values_may_stand_among_the_inputs() -> None:
    model = Calls(lambda self, x, flag, scale, mask: self.layer(x) * (scale if flag else 1), layer=nn.Linear(4, 3))
    x = torch.randn(2, 4)
    graph = capture(model, (x, True, 3.0, None))
    assert_equal(run(graph, model, Inputs.of((x, True, 3.0, None))), outputs_of(model, (x, True, 3.0, None)))


def test_a_graph_is_returned_as_it_is() -> None:
    model = nn.Linear(4, 3)
    graph = capture(model, torch.randn(2, 4))
    assert capture(model, graph) is graph


def test_nodes_say_which_call_of_which_module_they_belong_to() -> None:
    graph = capture(Shared(), torch.randn(2, 3, 8, 8))
    assert calls_of(graph, "aten.conv2d.default") == [("first", 0), ("first", 1), ("second", 0), ("last", 0)]
    assert calls_of(graph, "aten.relu.default") == [("", 0)]


def test_sizes_read_from_inputs_belong_to_the_model_itself() -> None:
    model = Calls(lambda self, x: self.layer(x).view(x.shape[0], 2, 2), layer=nn.Linear(4, 4))
    # A forward with a named argument: torch.export describes dynamic axes by names.
    model.forward = lambda x: model.function(model, x)  # type: ignore[method-assign]
    graph = capture(model, torch.randn(2, 4), dynamic_batch=True)
    assert graph.dynamic_batch
    assert set(calls_of(graph, "aten.sym_size.int")) == {("", 0)}


def test_shared_modules_list_their_tensors_once_with_ties() -> None:
    model = Shared()
    graph = capture(model, torch.randn(2, 3, 8, 8))
    assert set(graph.tensors) == {"first.weight", "first.bias", "last.weight", "last.bias"}
    assert graph.ties == {"second.weight": "first.weight", "second.bias": "first.bias"}
    assert graph.canonical("second.weight") == "first.weight"
    assert graph.canonical("last.weight") == "last.weight"
    assert graph.modules["second"] == graph.modules["first"] == "torch.nn.modules.conv.Conv2d"


def test_tied_parameters_are_one_tensor_and_one_source() -> None:
    graph = capture(TiedLanguageModel(), torch.zeros(2, 5, dtype=torch.long))
    assert graph.ties == {"head.weight": "embedding.weight"}
    embedding, head = (node for node in graph.calls if node.op == "aten.embedding.default" or node.module == "head")
    assert graph.source(embedding.args[0]) == graph.source(head.args[1]) == "embedding.weight"
    assert graph.parameters == {"embedding.weight", "body.weight", "body.bias"}


def test_buffers_outside_the_state_dict_are_transient() -> None:
    graph = capture(TiedLanguageModel(), torch.zeros(2, 5, dtype=torch.long))
    assert graph.transient == {"positions"}
    assert graph.tensors["positions"].shape == (5, 8)
    assert "positions" not in graph.parameters


def test_tensors_that_are_plain_attributes_are_constants() -> None:
    model = TOPOLOGIES["frozen"].make()
    graph = capture(model, torch.randn(2, 5, 8))
    assert sorted(tuple(value.shape) for value in graph.constants.values()) == [(6,), (8,)]
    assert set(graph.tensors) == set(model.state_dict())


def test_parametrization_names_are_stripped_where_one_original_remains() -> None:
    model = TOPOLOGIES["parametrized"].make()
    graph = capture(model, torch.randn(2, 3, 8, 8))
    weight_norm = {f"0.parametrizations.weight.original{index}" for index in (0, 1)}
    assert set(graph.tensors) == {*weight_norm, "0.bias", "2.weight", "2.bias"}
    assert graph.transient == frozenset()
    # The nodes of a parametrization belong to the module that has it.
    assert calls_of(graph, "aten.mul.Tensor") == [("2", 0)]
    assert calls_of(graph, "aten._weight_norm.default") == [("0", 0)]
    # A bare parametrized module.
    assert set(tensors_of(model[2])) == {"weight", "bias"}


def test_blocks_without_gradients_or_under_autocast_are_read_in_place() -> None:
    no_grad = capture(TOPOLOGIES["frozen"].make(), torch.randn(2, 5, 8))
    assert calls_of(no_grad, "aten.linear.default") == [("body", 0), ("head", 0)]
    autocast = capture(TOPOLOGIES["mixed_precision"].make(), torch.randn(2, 5, 8))
    assert calls_of(autocast, "aten.linear.default") == [("body", 0), ("head", 0)]
    assert len(calls_of(autocast, "aten.matmul.default")) == 2
    dtypes = [node.output.dtype for node in autocast.calls if node.op in ("aten.linear.default", "aten.matmul.default")]
    assert dtypes == [torch.bfloat16, torch.float32, torch.bfloat16, torch.float32]


def test_users_name_every_node_that_takes_a_value() -> None:
    graph = capture(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.randn(2, 4))
    linear, relu = (node.name for node in graph.calls)
    assert graph.users[linear] == (relu,)
    assert graph.users[relu] == ("output",)


def test_text_tells_operations_inputs_and_batch() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    text = str(capture(model, torch.randn(2, 4)))
    assert text == "Graph: 2 operations, 1 inputs (batch of 2), 2 parameters in 3 modules"
    assert "(any batch size)" in str(capture(model, torch.randn(2, 4), dynamic_batch=True))


# Dynamic batch


def test_dynamic_batch_from_an_example_of_one() -> None:
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.randn(1, 2, 2)
    graph = capture(model, x, dynamic_batch=True)
    assert graph.dynamic_batch
    assert price(graph).macs == 12
    assert_equal(run(graph, model, Inputs.of(x)), outputs_of(model, x))


@pytest.mark.parametrize("batch", [1, 2])
def test_a_model_of_fixed_batch_falls_back_and_says_so(batch: int, caplog: pytest.LogCaptureFixture) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).view(batch, 2, 2)

    model, x = Fixed(), torch.randn(batch, 4)
    with caplog.at_level(logging.INFO, logger="gracile"):
        graph = capture(model, x, dynamic_batch=True)
    assert not graph.dynamic_batch
    assert graph.batch == batch
    assert "no dynamic batch for Fixed" in caplog.text
    assert_equal(run(graph, model, Inputs.of(x)), outputs_of(model, x))


def test_dynamic_capture_leaves_no_marks_on_the_inputs() -> None:
    x = torch.randn(2, 4)
    attributes = dict(vars(x))
    graph = capture(nn.Linear(4, 3), x, dynamic_batch=True)
    assert vars(x) == attributes
    assert not capture(nn.Linear(4, 3), graph.example).dynamic_batch


def test_inputs_without_a_common_leading_size_have_no_batch() -> None:
    model = Calls(lambda self, x, scale: self.layer(x) * scale, layer=nn.Linear(4, 3))
    graph = capture(model, (torch.randn(2, 4), torch.tensor(2.0)), dynamic_batch=True)
    assert graph.batch == 1
    assert not graph.dynamic_batch


# Capture leaves the model as it is


def test_a_model_in_train_mode_stays_bit_equal_with_modes_and_statistics() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Sequential(nn.ReLU())).train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    x = torch.randn(2, 3, 8, 8)
    graph = capture(model, x)
    seen = []
    relu = next(node.name for node in graph.calls if node.op == "aten.relu.default")
    record(graph, model, {relu: lambda _node, _args, output: seen.append(output)}, [x])
    assert [module.training for module in model.modules()] == modes
    assert_equal(dict(model.state_dict()), dict(state))
    assert_equal(seen[0], outputs_of(model, x))


@pytest.mark.parametrize("name", ["lstm", "gru", "parametrized", "attention_of_torch"])
def test_the_model_still_trains_after_capture(name: str) -> None:
    topology = TOPOLOGIES[name]
    model, inputs = topology.make(), topology.inputs(2)
    before = outputs_of(model, inputs)
    attributes = {path: set(vars(module)) for path, module in model.named_modules()}
    capture(model, inputs)
    assert {path: set(vars(module)) for path, module in model.named_modules()} == attributes
    assert_equal(outputs_of(model, inputs), before)
    torch.optim.SGD(model.parameters(), lr=0.1).zero_grad()
    sum(leaf.sum() for leaf in pytree.tree_leaves(model.train()(inputs))).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert_equal(outputs_of(copy.deepcopy(model), inputs), before)


def test_an_lstm_keeps_its_flat_weights() -> None:
    lstm = nn.LSTM(4, 3, 2)
    capture(lstm, torch.randn(5, 2, 4))
    parameters = {id(parameter) for parameter in lstm.parameters()}
    assert {id(weight) for weight in lstm._flat_weights} == parameters


def test_old_style_weight_norm_captures_and_keeps_its_weight() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = nn.utils.weight_norm(nn.Linear(4, 3))
    model, x = nn.Sequential(layer, nn.ReLU()), torch.randn(2, 4)
    weight = layer.weight
    graph = capture(model, x)
    assert layer.weight is weight
    assert set(graph.tensors) == {"0.weight_g", "0.weight_v", "0.bias"}
    assert_equal(run(graph, model, Inputs.of(x)), outputs_of(model, x))
    model(x).sum().backward()
    assert layer.weight_g.grad is not None


def test_a_frozen_transformer_layer_is_no_opaque_operator() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval().requires_grad_(False)
    x = torch.randn(2, 5, 8)
    enabled = torch.backends.mha.get_fastpath_enabled()
    graph = capture(model, x)
    assert torch.backends.mha.get_fastpath_enabled() == enabled
    modules = ["self_attn", "self_attn", "linear1", "linear2"]
    assert [module for module, _ in calls_of(graph, "aten.linear.default")] == modules
    assert len(calls_of(graph, "aten.scaled_dot_product_attention.default")) == 1
    assert_equal(run(graph, model, Inputs.of(x)), outputs_of(model, x))


def test_a_compiled_part_captures() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        model.compile(backend="eager")
        graph = capture(model, torch.randn(2, 4))
    assert [node.op for node in graph.calls] == ["aten.linear.default", "aten.relu.default"]


# Refusals


def test_only_modules_and_tensors_are_taken() -> None:
    with pytest.raises(InputError, match=r"model is a function, not a torch\.nn\.Module"):
        capture(lambda x: x, torch.randn(2, 4))
    with pytest.raises(InputError, match="holds no tensor"):
        capture(nn.Linear(4, 3), (1, "two"))
    with pytest.raises(InputError, match="example_inputs is a str"):
        capture(nn.Linear(4, 3), "1,4")


def test_an_uninitialised_model_is_refused_by_the_name_of_its_parameter() -> None:
    with pytest.raises(CaptureError, match=r"1\.weight is not initialised yet; run the model once"):
        capture(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), torch.randn(2, 4))


def test_a_model_without_values_is_refused() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.BatchNorm1d(4, affine=False))
    with pytest.raises(CaptureError, match=r"0\.running_mean is on the meta device .* load the weights first"):
        capture(model, torch.randn(2, 4))


def test_a_wrapped_model_is_refused_with_the_way_to_the_inner_one() -> None:
    with pytest.raises(CaptureError, match=r"wrapped in DataParallel; .* model\.module"):
        capture(nn.DataParallel(nn.Linear(4, 3)), torch.randn(2, 4))


def test_a_compiled_model_is_refused_with_the_way_to_the_original() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(nn.Linear(4, 3), backend="eager")
    with pytest.raises(CaptureError, match=r"compiled by torch\.compile; .* model\._orig_mod"):
        capture(compiled, torch.randn(2, 4))


def test_a_scripted_model_or_part_is_refused_by_name() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(nn.Linear(4, 3))
    with pytest.raises(CaptureError, match="the model is a TorchScript module"):
        capture(scripted, torch.randn(2, 4))
    with pytest.raises(CaptureError, match=r"^1 is a TorchScript module, .* give the original Python module"):
        capture(nn.Sequential(nn.Linear(4, 4), scripted), torch.randn(2, 4))


def test_data_dependent_control_flow_is_refused_with_reason_and_ways_out() -> None:
    class Undecided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) if x.sum() > 0 else x

    with pytest.raises(CaptureError) as caught:
        capture(Undecided(), torch.randn(2, 4))
    text = str(caught.value)
    assert "could not capture Undecided with inputs of the shapes [(2, 4)]" in text
    assert "data-dependent" in text
    assert "torch.cond" in text
    assert "passing that submodule" in text
    assert caught.value.__cause__ is not None


def test_inputs_of_wrong_shape_are_refused_with_the_shapes() -> None:
    with pytest.raises(CaptureError, match=r"shapes \[\(2, 5\)\]: RuntimeError.*\nWays out: check that model"):
        capture(nn.Linear(4, 3), torch.randn(2, 5))


def test_a_refused_model_is_left_in_its_mode() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout()).train()
    with pytest.raises(CaptureError):
        capture(model, torch.randn(2, 5))
    assert all(module.training for module in model.modules())
    assert torch.backends.mha.get_fastpath_enabled()


# Record


def test_record_runs_batches_of_other_lengths() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    graph = capture(model, torch.randn(2, 5, 4))
    name = next(graph.calls).name
    shapes = []
    batches = [torch.randn(2, 5, 4), torch.randn(3, 7, 4)]
    examples = record(graph, model, {name: lambda _node, args, _out: shapes.append(tuple(args[0].shape))}, batches)
    assert examples == 5
    assert shapes == [(2, 5, 4), (3, 7, 4)]


def test_record_tells_python_values_apart() -> None:
    model = Calls(lambda self, x, scale: self.layer(x) * scale, layer=nn.Linear(4, 3))
    x = torch.randn(2, 4)
    graph = capture(model, (x, 2.0))
    last = list(graph.calls)[-1].name
    seen: list[Tensor] = []
    record(graph, model, {last: lambda _node, _args, output: seen.append(output)}, [(x, 2.0), (x, 3.0)])
    assert_equal(seen, [outputs_of(model, (x, 2.0)), outputs_of(model, (x, 3.0))])


def test_record_refuses_a_batch_that_takes_another_way_through_the_model() -> None:
    class Optional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.short, self.long = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.long(x) if x.shape[1] > 5 else self.short(x)

    model = Optional()
    graph = capture(model, torch.randn(2, 5, 4))
    name = next(graph.calls).name
    with pytest.raises(CaptureError, match=r"shapes \[\(2, 6, 4\)\] .* \(linear of module 'short' is missing\)"):
        record(graph, model, {name: lambda *_: None}, [torch.randn(2, 6, 4)])


def test_record_refuses_calibration_without_batches() -> None:
    model = nn.Linear(4, 3)
    graph = capture(model, torch.randn(2, 4))
    with pytest.raises(InputError, match="yields no batch"):
        record(graph, model, {}, [])
    with pytest.raises(InputError, match="calibration is a Tensor"):
        record(graph, model, {}, torch.randn(2, 4))


def test_record_restores_the_modes_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout()).train()
    graph = capture(model, torch.randn(2, 4))

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        record(graph, model, {next(graph.calls).name: fail}, [torch.randn(2, 4)])
    assert all(module.training for module in model.modules())


# Fingerprint


def test_fingerprint_depends_on_program_and_values_alone() -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.randn(2, 4)
    first = fingerprint(capture(model, x), model)
    twin = copy.deepcopy(model)
    assert fingerprint(capture(twin, torch.randn(2, 4)), twin) == first
    with torch.no_grad():
        twin[0].weight[0, 0] += 1e-6
    assert fingerprint(capture(twin, x), twin) != first
    other = nn.Sequential(model[0], nn.ReLU6())
    assert fingerprint(capture(other, x), other) != first


def test_batches_of_another_shape_are_captured_once_for_each_graph(monkeypatch):
    model, captured = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval(), []
    graph = capture(model, torch.randn(1, 4))
    monkeypatch.setattr("gracile.graph.running.capture", lambda *args: captured.append(args) or capture(*args))
    batches = [torch.randn(size, 4) for size in (5, 5, 2, 5, 1)]
    node = next(node.name for node in graph.calls)
    for _ in range(2):
        seen = []
        record(graph, copy.deepcopy(model), {node: lambda _node, _args, out, seen=seen: seen.append(out)}, batches)
        assert all(torch.equal(out, model[0](x)) for out, x in zip(seen, batches, strict=True))
    assert len(captured) == 2
    # Another capture of the same model knows nothing of that, and no batch is kept.
    other = fitted(capture(model, torch.randn(1, 4)), model, Inputs.of(batches[0]))
    assert len(captured) == 3
    assert other.example.tensors[0].is_meta
    assert other.example.signature == Inputs.of(batches[0]).signature
    # At most eight are.
    for size in range(2, 12):
        fitted(graph, model, Inputs.of(torch.randn(size, 4)))
    count = len(captured)
    for size in (2, 5, 11):
        fitted(graph, model, Inputs.of(torch.randn(size, 4)))
    assert len(captured) == count + 1
