"""NNI 3's pruners: masks by hand, caps and groups that hold, and masks that are renewed as training goes on."""

import pytest
import torch
from nni_toys import IMAGES, Residual, evaluator3, linear, network, shares
from torch import nn
from torch.nn import functional as F

from gracile.compat.nni import v3
from gracile.errors import InputError

HALF = [{"op_types": ["Linear"], "sparse_ratio": 0.5}]


def masked(pruner, name="0", **limits):
    _, masks = pruner.compress(**limits)
    pruner.unwrap_model()
    return {target: mask.tolist() for target, mask in masks[name].items()}


class TestWeights:
    def test_level_l1_l2_fpgm(self):
        rows = [[5.0, 0.0], [2.0, 2.0], [4.0, 4.0], [3.1, 3.1]]

        def model():
            return nn.Sequential(linear(rows, [1.0] * 4))

        assert masked(v3.LevelPruner(model(), HALF))["weight"] == [[1, 0], [0, 0], [1, 1], [0, 1]]
        assert masked(v3.L1NormPruner(model(), HALF))["bias"] == [0, 0, 1, 1]
        assert masked(v3.L2NormPruner(model(), HALF))["bias"] == [1, 0, 1, 0]
        points = nn.Sequential(linear([[0.0], [1.0], [2.0], [10.0]], [1.0] * 4))
        assert masked(v3.FPGMPruner(points, HALF))["bias"] == [1, 0, 0, 1]

    def test_ratios_of_nothing_and_of_all(self):
        model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
        entries = [{"op_names": ["0"], "sparse_ratio": 0}, {"op_names": ["1"], "sparse_ratio": 1}]
        _, masks = v3.L1NormPruner(model, entries).compress()
        assert shares(masks) == {"0": 1.0, "1": 0.0}

    def test_limits_hold_for_ratios(self):
        entry = {"op_types": ["Linear"], "sparse_ratio": 0.9, "max_sparse_ratio": 0.5}
        _, masks = v3.L1NormPruner(nn.Sequential(nn.Linear(2, 4)), [entry]).compress()
        assert shares(masks) == {"0": 0.5}

    def test_thresholds(self):
        model = nn.Sequential(linear([[0.1], [0.2], [0.3], [0.4]], [1.0] * 4))
        entry = {"op_types": ["Linear"], "sparse_threshold": 0.25}
        assert masked(v3.L1NormPruner(model, [entry]))["bias"] == [0, 0, 1, 1]
        capped = {**entry, "sparse_threshold": 0.35, "max_sparse_ratio": 0.5}
        assert masked(v3.L1NormPruner(model, [capped]))["bias"] == [0, 0, 1, 1]

    def test_granularities(self):
        def of(granularity):
            model = nn.Sequential(linear([[1.0, 9.0, 1.0, 1.0], [1.0, 9.0, 1.0, 2.0]], [1.0, 1.0]))
            entry = {"op_types": ["Linear"], "sparse_ratio": 0.5, "granularity": granularity}
            return masked(v3.L1NormPruner(model, [entry]))["weight"]

        assert of("out_channel") == [[0, 0, 0, 0], [1, 1, 1, 1]]
        assert of("in_channel") == [[0, 1, 0, 1], [0, 1, 0, 1]]
        assert of([2, 2]) == [[1, 1, 0, 0], [1, 1, 0, 0]]
        assert of([1, 2]) == [[1, 1, 0, 0], [1, 1, 0, 0]]
        assert of([[1], "back", -1]) == of("out_channel")

    def test_blocks_that_do_not_divide_name_the_entry(self):
        entry = {"op_types": ["Linear"], "sparse_ratio": 0.5, "granularity": [3, 3]}
        with pytest.raises(InputError, match=r"config_list\[0\]: the granularity of 0.weight"):
            v3.L1NormPruner(nn.Sequential(nn.Linear(4, 4)), [entry])

    def test_fpgm_refuses_single_elements_and_leaves_the_model(self):
        model = nn.Sequential(nn.Linear(4, 4))
        entry = {"op_types": ["Linear"], "sparse_ratio": 0.5, "granularity": [1, 1]}
        with pytest.raises(InputError, match=r"config_list\[0\]: FPGM compares units by their distances"):
            v3.FPGMPruner(model, [entry])
        assert isinstance(model[0].weight, nn.Parameter)

    def test_transposed_convolutions_lose_outputs(self):
        model = nn.Sequential(nn.ConvTranspose2d(3, 4, 1))
        _, masks = v3.L1NormPruner(model, [{"op_types": ["ConvTranspose2d"], "sparse_ratio": 0.5}]).compress()
        assert masks["0"]["weight"].shape == (3, 4, 1, 1)
        assert sorted(masks["0"]["weight"].mean((0, 2, 3)).tolist()) == [0, 0, 1, 1]


class TestGroups:
    def model(self):
        return nn.Sequential(linear([[1.0], [2.0], [3.0], [4.0]]), linear([[5.0] * 4, [6.0] * 4, [7.0] * 4, [8.0] * 4]))

    def test_no_layer_passes_its_cap_in_a_global_group(self):
        entry = {"op_types": ["Linear"], "sparse_ratio": 0.4, "global_group_id": 1, "max_sparse_ratio": 0.5}
        _, masks = v3.L1NormPruner(self.model(), [entry]).compress()
        # 8 of 20 elements: two rows of the first layer (its cap), then one row of four of the second.
        assert shares(masks) == {"0": 0.5, "1": 0.75}

    def test_no_layer_stays_below_its_minimum(self):
        entries = [
            {"op_names": ["0"], "sparse_ratio": 0.4, "global_group_id": 1},
            {"op_names": ["1"], "sparse_ratio": 0.4, "global_group_id": 1, "min_sparse_ratio": 0.5},
        ]
        _, masks = v3.L1NormPruner(self.model(), entries).compress()
        assert shares(masks) == {"0": 1.0, "1": 0.5}

    def test_layers_of_a_dependency_group_lose_the_same_outputs(self):
        model = nn.Sequential(linear([[1.0], [5.0]]), linear([[9.0, 0.0], [1.0, 0.0]]))
        entry = {"op_types": ["Linear"], "sparse_ratio": 0.5, "dependency_group_id": "x"}
        _, masks = v3.L1NormPruner(model, [entry]).compress()
        # Means 5 and 3: the second output goes from both.
        assert masks["0"]["weight"].tolist() == [[1], [0]]
        assert masks["1"]["weight"].tolist() == [[1, 1], [0, 0]]

    def test_blocks_of_a_group_lose_the_same_positions(self):
        model = nn.Sequential(linear([[1.0], [5.0], [6.0], [4.0]]))
        entry = {"op_types": ["Linear"], "sparse_ratio": 0.5, "internal_metric_block": 2}
        _, masks = v3.L1NormPruner(model, [entry]).compress()
        assert masks["0"]["weight"].flatten().tolist() == [0, 1, 0, 1]

    def test_different_sizes_in_one_dependency_group(self):
        model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
        entry = {"op_types": ["Linear"], "sparse_ratio": 0.5, "dependency_group_id": "x"}
        with pytest.raises(InputError, match=r"1.weight has 4 units, and 0.weight of the same dependency_group_id"):
            v3.L1NormPruner(model, [entry]).compress()

    def test_automatic_groups(self):
        model = Residual()
        entries = v3.auto_set_denpendency_group_ids(model, [{"op_types": ["Conv2d"], "sparse_ratio": 0.5}], IMAGES[:1])
        assert [entry["op_names"] for entry in entries] == [["conv1"], ["conv2"], ["conv3"], ["grouped"]]
        assert entries[0]["dependency_group_id"] == entries[1]["dependency_group_id"]
        assert [entry["internal_metric_block"] for entry in entries] == [1, 1, 2, 2]
        _, masks = v3.L1NormPruner(model, entries).compress()
        assert torch.equal(masks["conv1"]["bias"], masks["conv2"]["bias"])
        traced = v3.concrete_trace(model, {"x": IMAGES[:1]})
        again = v3.auto_set_denpendency_group_ids(traced, [{"op_types": ["Conv2d"], "sparse_ratio": 0.5}])
        assert [entry["internal_metric_block"] for entry in again] == [1, 1, 2, 2]


class TestTraining:
    def test_taylor(self):
        model = nn.Sequential(linear([[4.0], [1.0], [2.0], [3.0]], [0.0] * 4))
        factors = torch.tensor([1.0, 10.0, 3.0, 0.5])

        def train(model, optimizer, training_step, scheduler, max_steps, max_epochs):
            assert (max_steps, max_epochs) == (3, None)
            for _ in range(max_steps):
                optimizer.zero_grad()
                training_step(torch.ones(1, 1), model)[0].backward()
                optimizer.step()

        optimizer = torch.optim.SGD(model.parameters(), 0.0)
        evaluator = v3.TorchEvaluator(train, optimizer, lambda batch, m: ((m(batch) * factors).sum(), "more"))
        assert masked(v3.TaylorPruner(model, HALF, evaluator, 3))["bias"] == [0, 1, 1, 0]

    def test_slim_trains_factors_that_become_part_of_the_weights(self):
        model = nn.Sequential(linear([[1.0], [1.0], [1.0], [1.0]], [0.0] * 4))
        factors = torch.tensor([1.0, -1.0, 1.0, -1.0])

        def train(model, optimizer, training_step, scheduler, max_steps, max_epochs):
            for _ in range(max_steps):
                optimizer.zero_grad()
                training_step(torch.ones(1, 1), model)["loss"].backward()
                optimizer.step()

        optimizer = torch.optim.SGD(model.parameters(), 0.0)
        evaluator = v3.TorchEvaluator(train, optimizer, lambda batch, m: {"loss": 3 * (m(batch) * factors).sum()})
        pruner = v3.SlimPruner(model, HALF, evaluator, 2, regular_scale=1.0)
        assert masked(pruner)["bias"] == [0, 1, 0, 1]
        # Adam moves each factor by 0.01 a step, down where the loss falls with it; the bias is not multiplied.
        assert model[0].weight.flatten().tolist() == pytest.approx([0.98, 1.02, 0.98, 1.02], abs=1e-4)
        assert isinstance(model[0].weight, nn.Parameter)

    def test_slims_penalty_alone_shrinks_all_factors(self):
        model = network()
        before = model.conv1.weight.detach().clone()
        evaluator = evaluator3(model, rate=0.0)
        evaluator.patch_loss(lambda loss: 0 * loss)
        v3.SlimPruner(model, [{"op_names": ["conv1"], "sparse_ratio": 0.5}], evaluator, 5).compress()
        weight = model.conv1.parametrizations.weight.original
        assert torch.allclose(weight / before, torch.tensor(0.95), atol=1e-3)

    def test_movement(self):
        model = nn.Sequential(linear([[1.0, 2.0, -3.0, 4.0]]))
        factors = torch.tensor([[1.0, -1.0, -1.0, -1.0]])

        def train(model, optimizer, training_step, scheduler, max_steps, max_epochs):
            for _ in range(max_steps):
                optimizer.zero_grad()
                training_step(factors, model).backward()
                optimizer.step()

        evaluator = v3.TorchEvaluator(train, torch.optim.SGD(model.parameters(), 1e-4), lambda b, m: m(b).sum())
        entry = {"op_types": ["Linear"], "sparse_ratio": 0.5, "granularity": [1, 1]}
        pruner = v3.MovementPruner(model, [entry], evaluator, 1, 4)
        assert masked(pruner, max_steps=6)["weight"] == [[0, 1, 0, 1]]

    def test_soft_movement(self):
        model = network()
        entry = {"op_types": ["Conv2d"], "sparse_threshold": 0.49}
        pruner = v3.MovementPruner(model, [entry], evaluator3(model), 1, 6, regular_scale=50)
        _, masks = pruner.compress(max_steps=8)
        assert all(share < 1 for share in shares(masks).values())
        with pytest.raises(InputError, match=r"config_list\[0\]: the threshold is 2.0; movement compares it with"):
            v3.MovementPruner(network(), [{**entry, "sparse_threshold": 2.0}], None, 1, 6)

    @pytest.mark.parametrize(
        ("kind", "expected"),
        [(v3.LinearPruner, [0.25, 0.5, 0.75]), (v3.AGPPruner, [0.527777, 0.722222, 0.75])],
    )
    def test_schedules_renew_masks_every_so_many_steps(self, kind, expected):
        model = network()
        evaluator = evaluator3(model)
        base = v3.L1NormPruner(model, [{"op_names": ["fc"], "sparse_ratio": 0.75, "granularity": [1, 1]}])
        pruner, seen = kind(base, 2, 3, evaluator), []
        # Before each of the eight steps; the masks are renewed after the second, fourth and sixth.
        evaluator.patch_optimizer_step([lambda: seen.append(base._masking.sparsity)], [])
        pruner.compress(max_steps=8)
        assert seen == pytest.approx([0.0, 0.0, *(value for value in expected for _ in range(2))], abs=2e-3)

    def test_a_unit_may_come_back_when_masks_are_renewed(self):
        model = network()
        base = v3.L1NormPruner(model, [{"op_names": ["fc"], "sparse_ratio": 0.5}])
        base.compress()
        first = base.get_masks()["fc"]["bias"].clone()
        with torch.no_grad():
            weight = model.fc.parametrizations.weight.original
            weight.copy_(torch.where(first[:, None] == 0, 9.0, 0.1).expand_as(weight))
        base.compress()
        assert torch.equal(base.get_masks()["fc"]["bias"], 1 - first)

    def test_data_driven_pruners_under_a_schedule(self):
        model = network()
        evaluator = evaluator3(model)
        base = v3.TaylorPruner(model, [{"op_types": ["Conv2d"], "sparse_ratio": 0.5}], evaluator, 2)
        _, masks = v3.AGPPruner(base, 2, 2).compress(max_steps=6)
        assert shares(masks) == {"conv1": 0.5, "conv2": 0.5}
        with pytest.raises(InputError, match="interval_steps is 1, and TaylorPruner needs 2 training"):
            v3.AGPPruner(base, 1, 2)

    def test_too_short_a_training_is_logged(self, caplog):
        model = network()
        base = v3.L1NormPruner(model, [{"op_types": ["Conv2d"], "sparse_ratio": 0.5}], evaluator3(model))
        v3.LinearPruner(base, 4, 4).compress(max_steps=6)
        assert "LinearPruner saw 6 steps of the optimizer, and its last masks were due after 16" in caplog.text

    def test_a_pruner_goes_on_from_another(self):
        model = network()
        first = v3.MovementPruner(model, [{"op_names": ["conv1"], "sparse_ratio": 0.5}], evaluator3(model), 1, 3)
        second = v3.TaylorPruner.from_compressor(first, [{"op_names": ["fc"], "sparse_ratio": 0.5}], 4)
        _, masks = second.compress(max_steps=6)
        assert shares(masks) == {"conv1": 0.5, "fc": 0.5}
        second.unwrap_model()
        assert isinstance(model.conv1.weight, nn.Parameter)
        assert isinstance(model.fc.weight, nn.Parameter)
        with pytest.raises(InputError, match="compressor is a str"):
            v3.TaylorPruner.from_compressor("first", [], 4)

    def test_the_user_s_optimizer_stays(self):
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        base = v3.L1NormPruner(model, [{"op_types": ["Conv2d"], "sparse_ratio": 0.5}])
        base.compress()
        assert [id(p) for p in optimizer.param_groups[0]["params"]] == [
            id(p)
            for p in (
                model.conv1.parametrizations.weight.original,
                model.conv1.parametrizations.bias.original,
                model.bn.weight,
                model.bn.bias,
                model.conv2.parametrizations.weight.original,
                model.conv2.parametrizations.bias.original,
                model.fc.weight,
                model.fc.bias,
            )
        ]
        base.unwrap_model()
        F.cross_entropy(model(IMAGES), torch.zeros(32, dtype=torch.long)).backward()
        optimizer.step()
        assert isinstance(model.conv1.weight, nn.Parameter)

    def test_wrong_arguments(self):
        model = network()
        with pytest.raises(InputError, match="training_steps is 0; give a whole number from 1"):
            v3.TaylorPruner(model, HALF, evaluator3(model), 0)
        with pytest.raises(InputError, match="cooldown_begin_step is 2, and warmup_step 3"):
            v3.MovementPruner(model, HALF, evaluator3(model), 3, 2)
        with pytest.raises(InputError, match="pruner is a str; LinearPruner takes a pruner"):
            v3.LinearPruner("l1", 1, 1)
        with pytest.raises(InputError, match="existed_wrappers holds NNI's own objects"):
            v3.L1NormPruner(model, HALF, None, {"fc": object()})
