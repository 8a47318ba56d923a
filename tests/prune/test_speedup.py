"""Masks of other tools: read, turned into plans, and what they leave behind folded."""

import logging

import numpy as np
import pytest
import torch
from dependent_nets import TOPOLOGIES, randomised
from torch import Tensor, nn
from torch.nn.utils import prune

from gracile.channels import channel_groups
from gracile.errors import InputError
from gracile.graph import capture
from gracile.plan import AddBias, Plan, Slice
from gracile.prune import removable
from gracile.prune.foreign_masks import masks_of, read_masks
from gracile.prune.masks import mask
from gracile.prune.shrinking import Speedup, from_masks, speedup
from gracile.report import Record
from gracile.surgery import applied_plan, apply
from gracile.testing import assert_equivalent


def made(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model, inputs = TOPOLOGIES[name]()
    return randomised(model).double(), inputs.double() if inputs.is_floating_point() else inputs


def without(size: int, gone: list[int], rank: int = 4, axis: int = 0) -> Tensor:
    """A mask of size 1 along the other axes."""
    shape = [size if place == axis else 1 for place in range(rank)]
    return torch.ones(shape).index_fill(axis, torch.tensor(gone), 0)


def unpadded(bias: bool = True, norm: bool = False) -> nn.Sequential:
    """Two layers whose channels 1 and 4 between them are constants where the first is masked."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3, bias=bias, stride=2),
        nn.BatchNorm2d(4) if norm else nn.Identity(), nn.SiLU(), nn.Conv2d(4, 2, 1, bias=bias),
    )  # fmt: skip
    randomised(model)
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([0.3, 0.7, -0.2, 0.1, 0.9, 0.2]))
        model[0].bias.copy_(model[1].running_mean)
    return model.double()


IMAGES = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0)).double()


def differences(result: Speedup) -> tuple[float, float]:
    """Before and after folding, relative to the largest output."""
    details = result.record.details
    assert isinstance(details["largest_output"], float)
    before, after = details["difference_before_folding"], details["difference_after_folding"]
    assert isinstance(before, float)
    assert isinstance(after, float)
    return before / details["largest_output"], after / details["largest_output"]


def masked_outputs(model: nn.Module, masks: dict[str, Tensor], inputs: Tensor) -> Tensor:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, values in masks.items():
        state[name] *= values
    return torch.func.functional_call(model, state, (inputs,))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_constants_are_folded_exactly(bias, norm):
    model = unpadded(bias, norm)
    masks = {"0.weight": without(6, [1, 4])}
    result = speedup(model, IMAGES, masks)
    before, after = differences(result)
    assert before > 1e-2
    assert after < 1e-12
    torch.testing.assert_close(result.model(IMAGES), masked_outputs(model, masks, IMAGES), rtol=1e-10, atol=1e-12)
    assert result.model[3].weight.shape == (4, 4, 3, 3)
    assert applied_plan(result.model) == result.plan
    # A running mean takes the constant where there is one and no bias.
    biases = [edit.module for edit in result.plan.edits if isinstance(edit, AddBias)]
    assert biases == ([] if bias or norm else ["3"])
    assert result.record.changed == (("4",) if norm and not bias else ("3",))
    assert Record.model_validate_json(result.record.model_dump_json()) == result.record


def test_the_plan_replays_on_a_fresh_model_and_is_priced():
    model = unpadded(bias=False)
    result = speedup(model, IMAGES, {"0": without(6, [1, 4]), "3": without(4, [0])})
    assert [edit.module for edit in result.plan.edits if isinstance(edit, AddBias)] == ["3"]
    assert result.model[3].bias.shape == (3,)
    fresh = apply(unpadded(bias=False), Plan.from_json(result.plan.to_json()))
    fresh.load_state_dict(result.model.state_dict())
    assert torch.equal(fresh(IMAGES), result.model(IMAGES))
    assert result.plan.cost(capture(model, IMAGES)).params == sum(p.numel() for p in result.model.parameters())
    assert differences(result)[1] < 1e-12


def test_every_constant_on_the_way_is_folded():
    """The second layer's masked channels emit constants that come from the first one's, too."""
    model = unpadded()
    masks = {"0.weight": without(6, [1, 4]), "3.weight": without(4, [2]), "3.bias": without(4, [0], rank=1)}
    result = speedup(model, IMAGES, masks)
    assert differences(result)[1] < 1e-12
    assert result.record.changed == ("3", "6")


def test_linear_layers_and_calibration_data():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    batches = [torch.randn(4, 5).double() for _ in range(3)]
    result = speedup(model, batches[0], {"0": without(8, [2, 3], 2), "2": without(6, [5], 2)}, calibration=batches)
    assert differences(result)[1] < 1e-12
    assert [result.model[place].weight.shape[0] for place in (0, 2, 4)] == [6, 5, 3]
    pairs = [(batch, None) for batch in batches]
    again = speedup(model, batches[0], {"0": without(8, [2, 3], 2)}, calibration=pairs)
    assert differences(again)[1] < 1e-12
    with pytest.raises(InputError, match="calibration yields no batch"):
        speedup(model, batches[0], {"0": without(8, [2, 3], 2)}, calibration=[])


def test_at_padded_borders_it_is_better_than_nothing():
    model, inputs = made("chain")
    with torch.no_grad():
        model.body[0][1].bias.fill_(0.5)
    before, after = differences(speedup(model, inputs, {"body.0.0": without(8, [0, 3, 5])}))
    assert 1e-6 < after < before / 3


@pytest.mark.parametrize(
    ("name", "masks"),
    [
        ("chain", {"body.0.0": without(8, [1, 2])}),
        ("residual", {"body.stem.0": without(8, [1, 2]), "body.right": without(8, [1, 2])}),
        ("concat", {"body.left.0": without(6, [0]), "body.right.0": without(10, [4, 5])}),
        ("depthwise", {"body.1.0": without(16, [2, 3])}),
        ("flatten_linear", {"conv.0": without(8, [7]), "hidden": without(10, [0, 1], 2)}),
        ("unpacked", {name: without(16, [4, 5, 6, 7], 2) for name in ("query", "key", "value")}),
        ("unpacked", {"out": without(16, [4, 5, 6, 7], 2, axis=1)}),
        ("lstm", {"stem": without(8, [0], 2)}),
        ("tied_embedding", {"hidden": without(12, [3], 2)}),
    ],
)
def test_plans_are_exact_and_fit_the_original(name, masks):
    model, inputs = made(name)
    plan = from_masks(model, inputs, masks)
    assert plan.edits
    assert_equivalent(model, plan, inputs)
    result = speedup(model, inputs, masks)
    before, after = differences(result)
    assert after <= before + 1e-12
    assert sum(p.numel() for p in result.model.parameters()) < sum(p.numel() for p in model.parameters())
    assert tuple(edit for edit in result.plan.edits if edit in plan.edits) == plan.edits


def at_random(name: str) -> Speedup:
    """Masks drawn at random, of all biases of a channel and of some of its weights, so that no constant is left."""
    model, inputs = made(name)
    for buffer, values in model.named_buffers():
        if buffer.endswith("running_mean"):
            values.zero_()
    graph = capture(model, inputs)
    draw = np.random.default_rng(0)
    masks: dict[str, Tensor] = {}
    for group in channel_groups(graph).groups:
        gone = draw.permutation(group.channels)[: group.channels // 2]
        for member in group.members:
            shape = graph.tensors[member.tensor].shape
            if member.tensor in graph.parameters:
                chosen = [c for c in gone if "bias" in member.tensor or draw.random() < 0.5]
                keep = masks.setdefault(member.tensor, torch.ones(shape))
                keep.movedim(member.axis, 0)[torch.from_numpy(member.positions[chosen].ravel())] = 0
    return speedup(model, inputs, masks)


# Parametrized weights take no mask.
@pytest.mark.parametrize("name", [name for name in TOPOLOGIES if name != "weight_norm"])
def test_only_what_nobody_needs_is_removed(name):
    result = at_random(name)
    if "norms that took" in str(result.record.details.get("notes")):
        assert differences(result)[1] > 1e-9
    else:
        assert max(differences(result)) < 1e-12


@pytest.mark.parametrize("name", ["residual", "concat", "depthwise"])
def test_removing_what_is_needed_is_seen(name, monkeypatch):
    """The fault that the test above is for: one masked weight taken for enough."""
    monkeypatch.setattr(removable._Flow, "arrives", lambda self, masked: False)
    assert min(differences(at_random(name))) > 1e-3


def test_a_plan_from_masks_masks_the_whole_group():
    model = unpadded()
    plan = from_masks(model, IMAGES, {"0": without(6, [1])})
    cut = {(edit.tensor, edit.axis) for edit in plan.edits if isinstance(edit, Slice)}
    vectors = {("0.bias", 0), ("1.weight", 0), ("1.bias", 0), ("1.running_mean", 0), ("1.running_var", 0)}
    assert cut == {("0.weight", 0), ("3.weight", 1), *vectors}
    torch.testing.assert_close(mask(model, plan)(IMAGES), apply(model, plan)(IMAGES))


def test_lost_constants_are_told():
    """A grouped convolution reads the constant and cannot take it."""
    model, inputs = made("grouped")
    gone = [0, 2, 4, 6]
    result = speedup(model, inputs, {"body.0.0": without(8, gone), "body.1.0": torch.ones(16, 2, 1, 1)})
    assert "what body.1.0.weight reads of removed channels is not folded: it is no ungrouped" in str(
        result.record.details["notes"]
    )


def test_a_layer_of_ones_own_gets_no_bias():
    class Own(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.conv2d(x, self.weight)

    model = unpadded(bias=False)
    own = Own(6, 4, 3, bias=False).double()
    model[3] = own
    result = speedup(model, IMAGES, {"0": without(6, [1, 4])})
    assert "what 3.weight reads of removed channels is not folded: Own is no layer" in str(
        result.record.details["notes"]
    )
    assert differences(result)[1] > 1e-2


def torch_pruned(structured: bool = True) -> nn.Sequential:
    model = unpadded()
    if structured:
        prune.ln_structured(model[0], "weight", amount=2, n=2, dim=0)
        prune.random_structured(model[3], "weight", amount=1, dim=1)
    else:
        prune.l1_unstructured(model[0], "weight", amount=0.3)
    return model


def test_masks_of_torch():
    pruned = torch_pruned()
    masks = masks_of(pruned)
    assert list(masks) == ["0.weight", "3.weight"]
    expected = pruned(IMAGES)
    gone = {*(~masks["0.weight"].bool().flatten(1).any(1)).nonzero().ravel().tolist()}
    gone |= {*(~masks["3.weight"].bool().movedim(1, 0).flatten(1).any(1)).nonzero().ravel().tolist()}
    buffers = {name: tensor for name, tensor in pruned.named_buffers() if name.endswith("_mask")}
    for given in (masks, buffers):
        result = speedup(pruned, IMAGES, given)
        assert result.model[0].out_channels == 6 - len(gone)
        torch.testing.assert_close(result.model(IMAGES), expected, rtol=1e-10, atol=1e-12)
    # The model keeps its hooks.
    assert list(masks_of(pruned)) == ["0.weight", "3.weight"]
    for module in (pruned[0], pruned[3]):
        prune.remove(module, "weight")
    assert masks_of(pruned) == {}
    assert apply(pruned, from_masks(pruned, IMAGES, masks))[0].out_channels == 6 - len(gone)


def test_unstructured_masks_free_nothing(caplog):
    pruned = torch_pruned(structured=False)
    with caplog.at_level(logging.WARNING, "gracile"):
        assert from_masks(pruned, IMAGES, masks_of(pruned)) == Plan()
    assert "0.weight: 49 of 49 masked values stay as zeros; they fill no channel" in caplog.text
    result = speedup(pruned, IMAGES, masks_of(pruned))
    assert "they fill no channel" in str(result.record.details["notes"])
    torch.testing.assert_close(result.model(IMAGES), pruned(IMAGES))


def test_masks_of_nni():
    """Module -> target -> mask, of size 1 along whole axes, None where there is none."""
    model = unpadded()
    weight, bias = without(6, [1, 4]), without(6, [1, 4], rank=1)
    masks = {"0": {"weight": weight, "bias": bias}, "3": {"weight": torch.ones(4, 6, 1, 1), "bias": None}, "6": None}
    result = speedup(model, IMAGES, masks)
    expected = masked_outputs(model, {"0.weight": weight, "0.bias": bias}, IMAGES)
    torch.testing.assert_close(result.model(IMAGES), expected, rtol=1e-10, atol=1e-12)


def test_masks_of_activations_are_told(caplog):
    with caplog.at_level(logging.WARNING, "gracile"):
        assert from_masks(unpadded(), IMAGES, {"0": {"_output_0": torch.ones(6, 1, 1)}}) == Plan()
    assert "0._output_0: masks of inputs and outputs are not read" in caplog.text


def test_forms_of_a_mask():
    model = unpadded()
    graph = capture(model, IMAGES)
    expected = without(6, [1]).bool().expand(6, 3, 3, 3)
    for values in (without(6, [1]), without(6, [1]).bool(), without(6, [1]).int().numpy(), expected.numpy()):
        for name in ("0", "0.weight", "0.weight_mask"):
            assert torch.equal(read_masks({name: values}, graph)["0.weight"], expected)
    both = read_masks({"0": without(6, [1]), "0.weight": without(6, [2])}, graph)
    assert torch.equal(both["0.weight"], without(6, [1, 2]).bool().expand(6, 3, 3, 3))


def test_tied_tensors_have_one_mask():
    model, inputs = made("tied_embedding")
    graph = capture(model, inputs)
    found = read_masks({"head.weight": without(8, [1], 2, axis=1), "back": without(8, [1], 2)}, graph)
    assert list(found) == ["embedding.weight", "back.weight"]


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"3.wieght": torch.ones(4, 6, 3, 3)}, r"no parameter '3\.wieght'.*did you mean 3\.weight"),
        ({"zzz": torch.ones(1)}, r"no parameter 'zzz'.*named_parameters\(\) lists"),
        ({"2": torch.ones(6)}, "no parameter '2', and no module of that name with a weight"),
        ({"0": {"scale": torch.ones(6)}}, r"no parameter '0\.scale'"),
        ({"0": torch.ones(6)}, r"0\.weight has the shape \[6\]; it must be \[6, 3, 3, 3\]"),
        ({"0": torch.ones(4, 1, 1, 1)}, r"has the shape \[4, 1, 1, 1\]"),
        ({"0": torch.full((6, 1, 1, 1), 0.5)}, r"0\.weight holds other values than 0 and 1.*threshold"),
        ({"0": torch.full((6, 1, 1, 1), float("nan"))}, "other values than 0 and 1"),
        ({"0": "all"}, r"the mask of 0\.weight is a str"),
        ([torch.ones(1)], "masks is a list"),
    ],
)
def test_masks_that_do_not_fit_are_refused(masks, message):
    with pytest.raises(InputError, match=message):
        from_masks(unpadded(), IMAGES, masks)


def test_the_model_stays_as_it_was():
    model = unpadded()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    result = speedup(model, IMAGES, {"0": without(6, [1, 4])})
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training
    assert result.model.training
