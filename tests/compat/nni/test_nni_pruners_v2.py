"""NNI 2's basic pruners: masks by hand on tiny layers, modes, and training that adds the right term."""

import pytest
import torch
from nni_toys import IMAGES, LABELS, Residual, accuracy, evaluator2, linear, network, shares
from support.optional import optional
from torch import nn
from torch.nn import functional as F

from gracile.compat.nni import v2
from gracile.errors import InputError

HALF = [{"op_types": ["Linear"], "sparsity": 0.5}]


def masked(pruner, name="0"):
    _, masks = pruner.compress()
    pruner.unwrap_model()
    return {target: mask.tolist() for target, mask in masks[name].items()}


class TestLevel:
    def test_the_least_magnitudes_go(self):
        model = nn.Sequential(linear([[1.0, -4.0], [3.0, -2.0]], [1.0, 1.0]))
        found = masked(v2.LevelPruner(model, HALF))
        assert found["weight"] == [[0, 1], [1, 0]]
        # A bias entry goes where nothing of its output stays.
        assert found["bias"] == [1, 1]

    def test_balance_takes_the_same_number_from_each_tile(self):
        rows = torch.arange(1.0, 51.0).reshape(5, 10)
        model = nn.Sequential(linear(rows.tolist()))
        entry = [{"op_types": ["Linear"], "sparsity": 0.6}]
        mask = torch.tensor(masked(v2.LevelPruner(model, entry, mode="balance", balance_gran=[5, 5]))["weight"])
        # Of 25 elements 10 stay: the last two rows of each tile.
        assert mask.tolist() == [[0] * 10] * 3 + [[1] * 10] * 2

    def test_balance_keeps_zeros_when_it_goes_on(self):
        model = nn.Sequential(linear([[4.0, 3.0, 2.0, 1.0]]))
        pruner = v2.LevelPruner(model, HALF, "balance", [4])
        assert pruner.compress()[1]["0"]["weight"].tolist() == [[1, 1, 0, 0]]
        with torch.no_grad():
            model[0].parametrizations.weight.original.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
        assert pruner.compress()[1]["0"]["weight"].tolist() == [[1, 1, 0, 0]]

    def test_tiles_that_do_not_divide_and_missing_ones(self):
        model = nn.Sequential(linear([[1.0, 2.0, 3.0]]))
        with pytest.raises(InputError, match=r"config_list\[0\]: 0.weight: tiles of \[2\] do not divide"):
            v2.LevelPruner(model, HALF, "balance", [2]).compress()
        with pytest.raises(InputError, match="balance_gran is None; mode='balance' needs a tile"):
            v2.LevelPruner(nn.Sequential(nn.Linear(4, 4)), HALF, "balance")


class TestNorms:
    # Sums of magnitudes 5, 4, 8, 6.2; lengths 5, 2.83, 5.66, 4.4.
    ROWS = ((5.0, 0.0), (2.0, 2.0), (4.0, 4.0), (3.1, 3.1))

    def model(self):
        return nn.Sequential(linear(self.ROWS, [1.0, 1.0, 1.0, 1.0]))

    def test_l1(self):
        found = masked(v2.L1NormPruner(self.model(), HALF))
        assert found == {"weight": [[0, 0], [0, 0], [1, 1], [1, 1]], "bias": [0, 0, 1, 1]}

    def test_l2(self):
        assert masked(v2.L2NormPruner(self.model(), HALF))["bias"] == [1, 0, 1, 0]

    def test_fpgm_masks_what_lies_nearest_to_the_others(self):
        # On a line at 0, 1, 2, 10: sums of distances 13, 11, 11, 27.
        model = nn.Sequential(linear([[0.0], [1.0], [2.0], [10.0]], [1.0] * 4))
        assert masked(v2.FPGMPruner(model, HALF))["bias"] == [1, 0, 0, 1]

    def test_a_ratio_takes_the_floor(self):
        model = nn.Sequential(linear([[1.0], [2.0], [3.0], [4.0], [5.0]], [1.0] * 5))
        assert masked(v2.L1NormPruner(model, HALF))["bias"] == [0, 0, 1, 1, 1]

    def test_transposed_convolutions_lose_outputs(self):
        model = nn.Sequential(nn.ConvTranspose2d(2, 4, 1))
        with torch.no_grad():
            model[0].weight.copy_(torch.tensor([[1.0, 5.0, 2.0, 3.0], [1.0, 5.0, 2.0, 3.0]])[..., None, None])
        entry = [{"op_types": ["ConvTranspose2d"], "sparsity": 0.5}]
        assert masked(v2.L1NormPruner(model, entry))["bias"] == [0, 1, 0, 1]

    def test_total_sparsity_ranks_layers_together_within_caps(self):
        model = nn.Sequential(
            linear([[1.0], [2.0], [3.0], [4.0]]), linear([[5.0] * 4, [6.0] * 4, [7.0] * 4, [8.0] * 4])
        )
        entry = {"op_types": ["Linear"], "total_sparsity": 0.2, "max_sparsity_per_layer": 0.5}
        _, masks = v2.L1NormPruner(model, [entry]).compress()
        # Elements: 4 and 16. Two of the first layer reach its cap; two more elements do not make a row of the second.
        assert shares(masks) == {"0": 0.5, "1": 1.0}

    def test_what_is_masked_stays_masked(self):
        model = self.model()
        pruner = v2.L1NormPruner(model, HALF)
        pruner.compress()
        with torch.no_grad():
            model[0].parametrizations.weight.original.copy_(torch.tensor(self.ROWS).flip(0))
        assert pruner.compress()[1]["0"]["bias"].tolist() == [0, 0, 1, 1]

    @pytest.mark.parametrize("pruner", [v2.L1NormPruner, v2.L2NormPruner, v2.FPGMPruner])
    def test_batch_norms_are_refused(self, pruner):
        with pytest.raises(InputError, match=r"config_list\[0\]: 'bn' is a BatchNorm2d; \w+ masks Linear, ConvNd"):
            pruner(network(), [{"op_types": ["BatchNorm2d"], "sparsity": 0.5}])


class TestModes:
    def test_dependency_aware_layers_lose_the_same_by_the_sum_and_the_least_sparsity(self):
        model = Residual()
        entries = [{"op_names": ["conv1"], "sparsity": 0.75}, {"op_names": ["conv2"], "sparsity": 0.5}]
        _, masks = v2.L1NormPruner(model, entries, "dependency_aware", IMAGES[:1]).compress()
        first, second = (masks[name]["bias"] for name in ("conv1", "conv2"))
        assert torch.equal(first, second)
        assert first.sum() == 4
        norms = sum(
            model.get_submodule(n).parametrizations.weight.original.abs().sum((1, 2, 3)) for n in ("conv1", "conv2")
        )
        assert set(norms.topk(4).indices.tolist()) == set(first.nonzero().flatten().tolist())

    def test_groups_lose_the_same_positions(self):
        model = Residual()
        entry = [{"op_names": ["conv3", "grouped"], "sparsity": 0.5}]
        _, masks = v2.L2NormPruner(model, entry, mode="dependency_aware", dummy_input=IMAGES[:1]).compress()
        for name in ("conv3", "grouped"):
            front, back = masks[name]["bias"].reshape(2, 6)
            assert torch.equal(front, back)
            assert front.sum() == 3

    def test_a_dummy_input_is_needed(self):
        with pytest.raises(InputError, match="give dummy_input"):
            v2.L1NormPruner(Residual(), [{"op_types": ["Conv2d"], "sparsity": 0.5}], "dependency_aware")

    def test_unknown_and_global_modes(self):
        with pytest.raises(InputError, match="mode is 'global'; L1NormPruner has 'normal', 'dependency_aware'"):
            v2.L1NormPruner(network(), HALF, "global")
        model = network()
        with pytest.raises(InputError, match=r"config_list\[0\]: mode='global' ranks all layers together"):
            v2.TaylorFOWeightPruner(model, HALF, evaluator2(model), 3, mode="global")


class TestTraining:
    def test_slim_shrinks_scales_by_the_l1_penalty_and_masks_the_least(self):
        model = nn.Sequential(nn.BatchNorm1d(4))
        with torch.no_grad():
            model[0].weight.copy_(torch.tensor([0.9, -0.3, 0.6, -1.2]))
        inputs = torch.randn(16, 4)

        def train(model, optimizer, criterion, scheduler, max_steps, max_epochs):
            assert (max_steps, max_epochs) == (None, 2)
            for _ in range(max_epochs):
                optimizer.zero_grad()
                criterion(model(inputs)).backward()
                optimizer.step()

        evaluator = v2.TorchEvaluator(train, torch.optim.SGD(model.parameters(), 0.1), lambda out: 0 * out.sum())
        entry = [{"op_types": ["BatchNorm1d"], "total_sparsity": 0.5}]
        pruner = v2.SlimPruner(model, entry, evaluator, 2, scale=0.5)
        found = masked(pruner)
        # Two steps of 0.1 * 0.5 towards zero.
        assert model[0].weight.tolist() == pytest.approx([0.8, -0.2, 0.5, -1.1])
        assert found == {"weight": [1, 0, 0, 1], "bias": [1, 0, 0, 1]}

    def test_slim_needs_total_sparsity_unless_normal(self):
        model = network()
        entry = [{"op_types": ["BatchNorm2d"], "sparsity": 0.5}]
        with pytest.raises(InputError, match="mode='global' ranks all layers together: give total_sparsity"):
            v2.SlimPruner(model, entry, evaluator2(model), 1)
        _, masks = v2.SlimPruner(model, entry, evaluator2(model), 1, mode="normal").compress()
        assert shares(masks) == {"bn": 0.5}

    def activations(self, kind, activation="relu", inputs=((1.0,), (2.0,), (-3.0,))):
        """Three examples through the weights 1, -1, 2, -4; nothing is learned."""
        model = nn.Sequential(linear([[1.0], [-1.0], [2.0], [-4.0]], [0.0] * 4))
        data = torch.tensor(inputs)

        def train(model, optimizer, criterion, scheduler, max_steps, max_epochs):
            model.train()
            for _ in range(max_steps):
                optimizer.zero_grad()
                criterion(model(data)).backward()
                optimizer.step()

        evaluator = v2.TorchEvaluator(train, torch.optim.SGD(model.parameters(), 0.0), lambda out: out.sum())
        return masked(kind(model, HALF, evaluator, 2, activation))

    def test_apoz(self):
        # Outputs are zero for one example of three, or for two.
        assert self.activations(v2.ActivationAPoZRankPruner)["bias"] == [1, 0, 1, 0]

    def test_mean_activation(self):
        # Sums after ReLU: 1 + 2, 3, 2 + 4, 12.
        assert self.activations(v2.ActivationMeanRankPruner, inputs=((1.0,), (2.5,), (-3.0,)))["bias"] == [0, 0, 1, 1]

    def test_a_smaller_batch_counts_by_its_examples(self):
        # After ReLU 1, 1, 1 and 0; 0, 0, 0 and 4; 2, 2, 2 and 0; 0, 0, 0 and 8: sums of 3, 4, 6 and 8.  As means of the
        # means of both batches the second would be above the third.
        model = nn.Sequential(linear([[1.0], [-4.0], [2.0], [-8.0]], [0.0] * 4))

        def train(model, optimizer, criterion, scheduler, max_steps, max_epochs):
            model.train()
            for batch in (torch.ones(3, 1), torch.full((1, 1), -1.0)):
                criterion(model(batch)).backward()
                optimizer.step()

        evaluator = v2.TorchEvaluator(train, torch.optim.SGD(model.parameters(), 0.0), lambda out: out.sum())
        assert masked(v2.ActivationMeanRankPruner(model, HALF, evaluator, 2))["bias"] == [0, 0, 1, 1]

    def test_relu6_caps(self):
        # Sums after ReLU6: 1, 3, 2, 6: the first and the third go.
        assert self.activations(v2.ActivationMeanRankPruner, "relu6", ((1.0,), (-3.0,)))["bias"] == [0, 1, 0, 1]

    def test_outputs_of_sequences_count_along_their_last_axis(self):
        found = self.activations(v2.ActivationAPoZRankPruner, inputs=(((1.0,), (2.0,)), ((3.0,), (-1.0,))))
        assert found["bias"] == [1, 0, 1, 0]

    def test_unknown_activation(self):
        with pytest.raises(InputError, match="activation is 'tanh'; it is one of relu, gelu, relu6"):
            self.activations(v2.ActivationAPoZRankPruner, "tanh")

    def test_taylor(self):
        # loss = sum of c_i w_i x: g w = c_i x w_i, squared and averaged over steps.
        model = nn.Sequential(linear([[4.0], [1.0], [2.0], [3.0]], [0.0] * 4))
        factors = torch.tensor([1.0, 10.0, 3.0, 0.5])

        def train(model, optimizer, criterion, scheduler, max_steps, max_epochs):
            model.train()
            for _ in range(max_steps):
                optimizer.zero_grad()
                criterion(model(torch.ones(1, 1))).backward()
                optimizer.step()

        optimizer = torch.optim.SGD(model.parameters(), 0.0)
        evaluator = v2.TorchEvaluator(train, optimizer, lambda out: (out * factors).sum())
        # 4, 10, 6, 1.5 squared.
        assert masked(v2.TaylorFOWeightPruner(model, HALF, evaluator, 3))["bias"] == [0, 1, 1, 0]

    def test_taylor_ranks_all_layers_together(self):
        model = network()
        entry = [{"op_types": ["Conv2d"], "total_sparsity": 0.5}]
        _, masks = v2.TaylorFOWeightPruner(model, entry, evaluator2(model), 4, mode="global").compress()
        total = sum(mask["weight"].numel() for mask in masks.values())
        gone = sum(int((mask["weight"] == 0).sum()) for mask in masks.values())
        assert 0.5 - 72 / total <= gone / total <= 0.5

    def test_admm_pulls_weights_by_the_squared_distance(self):
        model = nn.Sequential(linear([[3.0, 1.0, -2.0, 0.5]]))

        def train(model, optimizer, criterion, scheduler, max_steps, max_epochs):
            for _ in range(max_epochs):
                optimizer.zero_grad()
                criterion(model(torch.ones(1, 4))).backward()
                optimizer.step()

        evaluator = v2.TorchEvaluator(train, torch.optim.SGD(model.parameters(), 0.1), lambda out: 0 * out.sum())
        entry = [{"op_types": ["Linear"], "sparsity": 0.5, "rho": 1.0}]
        pruner = v2.ADMMPruner(model, entry, evaluator, iterations=2, training_epochs=1)
        found = masked(pruner)
        # First round: W = Z, no pull. Then Z = (3, 0, -2, 0), U = W - Z = (0, 1, 0, 0.5); the gradient of
        # rho/2 ||W - Z + U||^2 is (0, 2, 0, 1), one step of 0.1.
        assert model[0].weight.tolist() == [pytest.approx([3.0, 0.8, -2.0, 0.4])]
        assert found["weight"] == [[1, 0, 1, 0]]

    def test_admm_masks_outputs_when_coarse(self):
        model = network()
        entry = [{"op_types": ["Conv2d"], "sparsity": 0.5}]
        _, masks = v2.ADMMPruner(model, entry, evaluator2(model), 1, 1, granularity="coarse-grained").compress()
        assert masks["conv2"]["bias"].sum() == 4
        assert set(masks["conv2"]["weight"].flatten(1).mean(1).tolist()) == {0.0, 1.0}

    def test_movement_masks_what_moves_towards_zero(self):
        # loss = sum of c_i w_i: S = -lr sum g w, so that weights with c w > 0 shrink and lose.
        model = nn.Sequential(linear([[1.0, 2.0, -3.0, 4.0]]))
        factors = torch.tensor([[1.0, -1.0, -1.0, -1.0]])

        def train(model, optimizer, criterion, scheduler, max_steps, max_epochs):
            model.train()
            for _ in range(max_steps):
                optimizer.zero_grad()
                criterion(model(factors)).backward()
                optimizer.step()

        evaluator = v2.TorchEvaluator(train, torch.optim.SGD(model.parameters(), 1e-4), lambda out: out.sum())
        pruner = v2.MovementPruner(model, HALF, evaluator, 1, 4, training_steps=6)
        assert masked(pruner)["weight"] == [[0, 1, 0, 1]]

    def test_soft_movement_takes_the_sparsity_for_a_threshold(self):
        model = network()
        entry = [{"op_types": ["Conv2d"], "sparsity": 0.49}]
        pruner = v2.MovementPruner(
            model, entry, evaluator2(model), 1, 4, training_steps=6, regular_scale=50, movement_mode="soft"
        )
        _, masks = pruner.compress()
        # Adam moves each score by 0.01 a step; below logit(0.49) = -0.04 it goes.
        assert all(0 < share < 1 for share in shares(masks).values())

    def test_movement_needs_a_length_and_an_order(self):
        model = network()
        with pytest.raises(InputError, match="give training_steps or training_epochs"):
            v2.MovementPruner(model, HALF, evaluator2(model), 1, 4)
        with pytest.raises(InputError, match="cool_down_beginning_step is 4; give a whole number from 5"):
            v2.MovementPruner(model, HALF, evaluator2(model), 4, 4, training_steps=9)

    def test_an_evaluator_is_needed(self):
        model = network()
        with pytest.raises(InputError, match="TaylorFOWeightPruner trains the model: give an evaluator"):
            v2.TaylorFOWeightPruner(model, HALF, None, 3)
        assert model(IMAGES).shape == (32, 4)
        with pytest.raises(InputError, match="trainer, traced_optimizer and criterion go together, and criterion"):
            v2.TaylorFOWeightPruner(network(), HALF, accuracy, 3)

    def test_training_that_shows_nothing(self):
        model = network()
        evaluator = v2.TorchEvaluator(lambda *_: None, torch.optim.SGD(model.parameters(), 0.1), F.cross_entropy)
        with pytest.raises(InputError, match=r"training showed nothing of fc.weight"):
            v2.TaylorFOWeightPruner(model, HALF, evaluator, 3).compress()


class Blocks(nn.Module):
    """An attention and a feed-forward block, as Hugging Face names and configures them."""

    class config:  # noqa: N801
        num_attention_heads = 2
        intermediate_size = 8

    def __init__(self):
        super().__init__()
        self.attention = nn.ModuleDict({"query": nn.Linear(4, 4), "output": nn.Linear(4, 4)})
        self.intermediate = nn.Linear(4, 8)
        self.output = nn.Linear(8, 4)

    def forward(self, x):
        x = x + self.attention["output"](torch.tanh(self.attention["query"](x)))
        return self.output(torch.relu(self.intermediate(x)))


def test_movement_masks_blocks_of_heads_rows_and_columns():
    model = Blocks()
    inputs, wanted = torch.randn(16, 4), torch.randn(16, 4)

    def train(model, optimizer, criterion, scheduler, max_steps, max_epochs):
        model.train()
        for _ in range(max_steps):
            optimizer.zero_grad()
            criterion(model(inputs), wanted).backward()
            optimizer.step()

    evaluator = v2.TorchEvaluator(train, torch.optim.SGD(model.parameters(), 0.1), F.mse_loss)
    entry = [{"op_types": ["Linear"], "sparsity": 0.5}]
    pruner = v2.MovementPruner(model, entry, evaluator, 1, 4, training_steps=5, sparse_granularity="auto")
    _, masks = pruner.compress()
    # Two heads of two: blocks of 2 x 2, of which half go.
    blocks = masks["attention.query"]["weight"].reshape(2, 2, 2, 2).movedim(1, 2).flatten(2).mean(2)
    assert sorted(blocks.flatten().tolist()) == [0, 0, 1, 1]
    assert sorted(masks["intermediate"]["weight"].mean(1).tolist()) == [0] * 4 + [1] * 4
    assert sorted(masks["output"]["weight"].mean(0).tolist()) == [0] * 4 + [1] * 4


def test_automatic_blocks_need_a_configuration():
    model = network()
    with pytest.raises(InputError, match=r"config_list\[0\]: sparse_granularity='auto' reads the number of heads"):
        v2.MovementPruner(model, HALF, evaluator2(model), 1, 4, training_steps=5, sparse_granularity="auto")


def test_blocks_of_a_transformer_of_hugging_face():
    transformers = optional("transformers")
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12
    )
    model = transformers.BertModel(config)
    tokens = torch.arange(12).reshape(2, 6)

    def train(model, optimizer, criterion, scheduler, max_steps, max_epochs):
        model.train()
        for _ in range(max_steps):
            optimizer.zero_grad()
            criterion(model(tokens).last_hidden_state).backward()
            optimizer.step()

    evaluator = v2.TorchEvaluator(train, torch.optim.SGD(model.parameters(), 0.1), lambda out: out[..., 0].sum())
    entry = [{"op_types": ["Linear"], "op_partial_names": ["encoder.layer.0."], "sparsity": 0.5}]
    pruner = v2.MovementPruner(model, entry, evaluator, 1, 3, training_steps=4, sparse_granularity="auto")
    assert {name: (blocks.count, blocks.elements) for name, blocks in pruner._masking.blocks.items()} == {
        **{f"encoder.layer.0.attention.self.{name}.weight": (4, 16) for name in ("query", "key", "value")},
        "encoder.layer.0.attention.output.dense.weight": (4, 16),
        "encoder.layer.0.intermediate.dense.weight": (12, 8),
        "encoder.layer.0.output.dense.weight": (12, 8),
    }
    _, masks = pruner.compress()
    assert set(shares(masks).values()) == {0.5}


def test_weights_that_are_not_numbers():
    model = network()
    with torch.no_grad():
        model.conv2.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match=r"conv2.weight holds NaN or infinite values"):
        v2.L1NormPruner(model, [{"op_types": ["Conv2d"], "sparsity": 0.5}]).compress()


class TestMasksAndFiles:
    def test_zeros_while_wrapped_values_when_unwrapped(self):
        model = network()
        before = model.conv2.weight.detach().clone()
        pruner = v2.L1NormPruner(model, [{"op_names": ["conv2"], "sparsity": 0.5}])
        _, masks = pruner.compress()
        assert torch.equal(model.conv2.weight, before * masks["conv2"]["weight"])
        pruner._unwrap_model()
        assert torch.equal(model.conv2.weight, before)
        assert isinstance(model.conv2.weight, nn.Parameter)
        pruner._wrap_model()
        assert torch.equal(model.conv2.weight, before * masks["conv2"]["weight"])

    def test_masked_values_do_not_train(self):
        model = network()
        pruner = v2.L1NormPruner(model, [{"op_names": ["conv2"], "sparsity": 0.5}])
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        _, masks = pruner.compress()
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(model(IMAGES), LABELS).backward()
            optimizer.step()
        assert not model.conv2.weight[masks["conv2"]["weight"] == 0].any()

    def test_show_pruned_weights_counts_outputs(self, caplog):
        pruner = v2.L1NormPruner(network(), [{"op_types": ["Conv2d"], "sparsity": 0.25}])
        pruner.compress()
        with caplog.at_level("INFO"):
            assert pruner.show_pruned_weights() == [("conv1", 6, 8), ("conv2", 6, 8)]
        assert "conv2 keeps 6 of 8 along axis 0" in caplog.text
        assert pruner.show_pruned_weights(dim=1) == [("conv1", 1, 1), ("conv2", 8, 8)]

    def test_export_writes_zeros_and_masks_that_load_without_unpickling(self, tmp_path):
        model = network()
        pruner = v2.L1NormPruner(model, [{"op_types": ["Conv2d"], "sparsity": 0.5}])
        _, masks = pruner.compress()
        expected = model(IMAGES)
        pruner.export_model(tmp_path / "model.pth", tmp_path / "masks.pth")
        fresh = network()
        fresh.load_state_dict(torch.load(tmp_path / "model.pth", weights_only=True))
        # Batch-norm has seen the images once more in the meantime, in training mode it does not matter.
        assert torch.allclose(fresh(IMAGES), expected, atol=1e-6)
        stored = torch.load(tmp_path / "masks.pth", weights_only=True)
        assert torch.equal(stored["conv2"]["weight"], masks["conv2"]["weight"])
        again = v2.L1NormPruner(fresh, [{"op_types": ["Conv2d"], "sparsity": 0.5}])
        again.load_masks(tmp_path / "masks.pth")
        assert torch.equal(again.get_masks()["conv1"]["bias"], masks["conv1"]["bias"])

    def test_two_pruners_of_one_parameter(self):
        model = network()
        v2.L1NormPruner(model, [{"op_names": ["conv2"], "sparsity": 0.5}]).compress()
        with pytest.raises(InputError, match=r"conv2.weight is masked already"):
            v2.L2NormPruner(model, [{"op_names": ["conv2"], "sparsity": 0.5}])

    @pytest.mark.parametrize(
        ("masks", "message"),
        [
            ({"conv3": {"weight": torch.ones(1)}}, "masks: conv3.weight is not masked by this pruner"),
            ({"conv2": {"weight": torch.ones(5, 5)}}, r"masks: that of conv2.weight has the shape \[5, 5\]"),
            (7, "masks is a int; give the dictionary"),
        ],
    )
    def test_masks_that_do_not_fit(self, masks, message):
        pruner = v2.L1NormPruner(network(), [{"op_names": ["conv2"], "sparsity": 0.5}])
        with pytest.raises(InputError, match=message):
            pruner.load_masks(masks)
