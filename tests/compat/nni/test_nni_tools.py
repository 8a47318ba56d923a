"""ModelSpeedup, counting, questions about dependencies, and sensitivity analysis."""

import csv

import pytest
import torch
from nni_toys import IMAGES, Residual, accuracy, network
from torch import nn

from gracile.compat import nni as facade
from gracile.compat.nni import v2, v3
from gracile.errors import EvaluationError, FileError, InputError
from gracile.plan import Plan
from gracile.surgery import applied_plan

CONVS = [{"op_types": ["Conv2d"], "sparse_ratio": 0.5}]


def rows_of(path):
    return list(csv.reader(path.read_text().splitlines()))


def masked_network():
    """A network whose batch-norm emits constants for masked channels, its pruner and its masks."""
    model = network().eval()
    with torch.no_grad():
        model.bn.bias.copy_(torch.linspace(-1, 1, 8))
        model.bn.running_mean.normal_()
    pruner = v3.L1NormPruner(model, CONVS)
    _, masks = pruner.compress()
    return model, pruner, masks


class TestSpeedup:
    def test_the_model_itself_shrinks_and_computes_what_the_masked_one_did(self):
        model, pruner, masks = masked_network()
        expected = model(IMAGES)
        pruner.unwrap_model()
        speedup = v3.ModelSpeedup(model, IMAGES[:1], masks)
        small = speedup.speedup_model()
        assert small is model
        assert (model.conv1.out_channels, model.bn.num_features) == (4, 4)
        assert (model.conv2.in_channels, model.conv2.out_channels, model.fc.in_features) == (4, 4, 64)
        # Shifts of masked channels are folded into biases, exactly where nothing is padded.
        assert torch.allclose(model(IMAGES), expected, atol=1e-5)
        assert speedup.record.details["difference_before_folding"] > 0.01
        assert isinstance(speedup.plan, Plan)
        assert len(applied_plan(model).edits) == len(speedup.plan.edits)

    def test_the_small_model_trains(self):
        model, pruner, masks = masked_network()
        pruner.unwrap_model()
        v3.ModelSpeedup(model, IMAGES[:1], masks).speedup_model()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        model.train()(IMAGES).square().mean().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()

    def test_masks_from_a_file(self, tmp_path):
        model, pruner, _ = masked_network()
        pruner.export_model(tmp_path / "model.pth", tmp_path / "masks.pth")
        v2.ModelSpeedup(model, IMAGES[:1], masks_file=tmp_path / "masks.pth", map_location="cpu").speedup_model()
        assert model.conv1.out_channels == 4
        fresh = network()
        fresh.load_state_dict(torch.load(tmp_path / "model.pth", weights_only=True))
        v2.ModelSpeedup(fresh, IMAGES[:1], str(tmp_path / "masks.pth"), "cpu").speedup_model()
        assert torch.equal(fresh.conv2.weight, model.conv2.weight)

    def test_files_are_never_unpickled(self, tmp_path):
        class Harm:
            def __reduce__(self):
                return (print, ("harm",))

        torch.save({"conv1": Harm()}, tmp_path / "harm.pth")
        with pytest.raises(FileError, match=r"harm.pth cannot be read as masks"):
            v3.ModelSpeedup(network(), IMAGES[:1], tmp_path / "harm.pth")
        with pytest.raises(FileError, match="cannot be read as masks"):
            v3.ModelSpeedup(network(), IMAGES[:1], tmp_path / "missing.pth")

    def test_a_wrapped_model_says_what_to_do(self):
        model, _, masks = masked_network()
        with pytest.raises(InputError, match=r"conv1.weight has a mask on it; call pruner.unwrap_model\(\) first"):
            v3.ModelSpeedup(model, IMAGES[:1], masks)

    def test_options_of_nni_s_tracing(self, caplog):
        model, pruner, masks = masked_network()
        pruner.unwrap_model()
        v3.ModelSpeedup(model, IMAGES[:1], masks, batch_dim=0, customized_replacers=[object()]).speedup_model()
        assert "customized_replacers has no use" in caplog.text
        with pytest.raises(InputError, match="ModelSpeedup takes no 'confidense'"):
            v3.ModelSpeedup(model, IMAGES[:1], masks, confidense=8)
        with pytest.raises(InputError, match="give masks_or_file"):
            v3.ModelSpeedup(model, IMAGES[:1])

    def test_what_cannot_be_cut_stays_zero_and_is_logged(self, caplog):
        model = Residual().eval()
        pruner = v3.L1NormPruner(model, [{"op_names": ["conv1"], "sparse_ratio": 0.5}])
        _, masks = pruner.compress()
        expected = model(IMAGES)
        pruner.unwrap_model()
        v3.ModelSpeedup(model, IMAGES[:1], masks).speedup_model()
        assert model.conv1.out_channels == 8
        assert not model.conv1.weight[masks["conv1"]["weight"] == 0].any()
        assert torch.allclose(model(IMAGES), expected, atol=1e-6)
        assert "conv1.weight: 36 of 36 masked values stay as zeros" in caplog.text

    def test_what_goes_together_is_cut_together(self):
        model = Residual().eval()
        entries = v3.auto_set_denpendency_group_ids(model, CONVS, IMAGES[:1])
        pruner = v3.L1NormPruner(model, entries)
        _, masks = pruner.compress()
        expected = model(IMAGES)
        pruner.unwrap_model()
        v3.ModelSpeedup(model, IMAGES[:1], masks).speedup_model()
        assert [module.out_channels for module in (model.conv1, model.conv2, model.conv3, model.grouped)] == [
            4,
            4,
            6,
            6,
        ]
        assert model.grouped.groups == 2
        assert torch.allclose(model(IMAGES), expected, atol=1e-5)


class TestCounting:
    def test_multiply_accumulates_by_hand(self):
        flops, params, rows = facade.count_flops_params(network(), IMAGES[:2], verbose=False)
        # Outputs of 8 x 6 x 6, 8 x 4 x 4 and 4, of one example.
        assert flops == 8 * 36 * 9 + 8 * 16 * 72 + 4 * 128
        assert params == sum(p.numel() for p in network().parameters())
        assert [row["name"] for row in rows if row["flops"]] == ["conv1", "conv2", "fc"]
        row = next(row for row in rows if row["name"] == "conv2")
        assert row == {
            "name": "conv2",
            "module_type": "Conv2d",
            "weight_shape": (8, 8, 3, 3),
            "flops": 8 * 16 * 72,
            "params": 8 * 72 + 8,
            "input_size": (2, 8, 6, 6),
            "output_size": (2, 8, 4, 4),
        }

    def test_a_shape_will_do_and_the_table_is_logged(self, caplog):
        with caplog.at_level("INFO"):
            assert facade.count_flops_params(network(), (1, 1, 8, 8))[0] == 8 * 36 * 9 + 8 * 16 * 72 + 4 * 128
        assert "conv2" in caplog.text

    def test_modes(self):
        with pytest.raises(InputError, match="mode is 'all'; it is 'default' or 'full'"):
            facade.count_flops_params(network(), (1, 1, 8, 8), mode="all")

    def test_shares_that_cuts_and_masks_removed(self):
        origin, model = network(), network()
        pruner = v3.L1NormPruner(model, [{"op_names": ["conv2"], "sparse_ratio": 0.5}])
        _, masks = pruner.compress()
        pruner.unwrap_model()
        entries = [{"op_types": ["Conv2d"], "sparse_ratio": 0.5}, {"op_names": ["fc"], "exclude": True}]
        both, cut, hidden = facade.compute_sparsity(origin, model, masks, entries)
        share = 288 / (72 + 576)
        assert (both[0]["op_names"], both[0]["total_sparsity"]) == (["conv1", "conv2"], pytest.approx(share))
        assert (cut[0]["total_sparsity"], hidden[0]["total_sparsity"]) == (0, pytest.approx(share))
        v3.ModelSpeedup(model, IMAGES[:1], masks).speedup_model()
        both, cut, hidden = facade.compute_sparsity(origin, model, {}, entries)
        assert (both[0]["total_sparsity"], cut[0]["total_sparsity"]) == (pytest.approx(share), pytest.approx(share))
        assert hidden[0]["total_sparsity"] == 0


class TestDependencies:
    def test_layers_that_are_added_go_together(self, tmp_path):
        found = facade.ChannelDependency(Residual(), IMAGES[:1])
        assert found.dependency_sets == [{"conv1", "conv2"}, {"conv3"}, {"grouped"}, {"fc"}]
        assert found.dependency["conv1"] == {"conv1", "conv2"}
        found.export(tmp_path / "sets.csv")
        rows = rows_of(tmp_path / "sets.csv")
        assert rows[:2] == [["Dependency Set", "Layers"], ["Set 1", "conv1", "conv2"]]

    def test_layers_that_read_the_same_channels(self):
        found = facade.InputChannelDependency(Residual(), IMAGES[:1])
        assert {"conv2", "conv3"} in found.dependency_sets

    def test_runs_of_grouped_convolutions_reach_what_they_read(self, tmp_path):
        found = facade.GroupDependency(Residual(), IMAGES[:1])
        assert dict(found.dependency) == {"conv1": 1, "conv2": 1, "conv3": 2, "grouped": 2, "fc": 1}
        found.export(tmp_path / "groups.csv")
        assert ["conv3", "2"] in rows_of(tmp_path / "groups.csv")

    def test_depthwise_convolutions_ask_for_nothing(self):
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 2, 1))
        assert dict(facade.GroupDependency(model, IMAGES[:1]).dependency) == {"0": 1, "1": 1, "2": 1}
        assert facade.ChannelDependency(model, IMAGES[:1]).dependency["0"] == {"0", "1"}

    def test_reshapes_and_the_layers_before_them(self):
        found = facade.ReshapeDependency(network(), IMAGES[:1]).dependency
        assert list(found.values()) == [{"conv2"}]

    def test_an_input_is_needed(self):
        with pytest.raises(InputError, match="give dummy_input"):
            facade.ChannelDependency(Residual())
        with pytest.raises(InputError, match="model is a str"):
            facade.ChannelDependency("model", IMAGES)
        with pytest.raises(InputError, match="prune_type is 'Channel'"):
            facade.ChannelDependency(Residual(), IMAGES[:1], prune_type="Channel")
        with pytest.raises(InputError, match="give dummy_input beside the model"):
            facade.auto_set_denpendency_group_ids(Residual(), CONVS)


class TestSensitivity:
    def test_each_convolution_alone(self, tmp_path):
        model = network().eval()
        calls = []

        def norm(net, scale):
            calls.append(
                {
                    name: int((m.weight == 0).flatten(1).all(1).sum())
                    for name, m in net.named_children()
                    if hasattr(m, "out_channels")
                }
            )
            return scale * float(net.conv2.weight.abs().sum())

        analysis = facade.SensitivityAnalysis(model, norm, sparsities=[0.25, 0.5])
        found = analysis.analysis(val_args=[model], val_kwargs={"scale": 2})
        assert calls == [{"conv1": a, "conv2": b} for a, b in ((0, 0), (2, 0), (4, 0), (0, 2), (0, 4))]
        sums = model.conv2.weight.detach().abs().sum((1, 2, 3)).sort().values
        assert found["conv1"] == {0.25: analysis.ori_metric, 0.5: analysis.ori_metric}
        assert found["conv2"][0.5] == pytest.approx(2 * float(sums[4:].sum()), rel=1e-5)
        assert isinstance(model.conv2.weight, nn.Parameter)
        analysis.export(tmp_path / "table.csv")
        rows = rows_of(tmp_path / "table.csv")
        assert rows[0] == ["layername", "0.25", "0.5"]
        assert [row[0] for row in rows[1:]] == ["conv1", "conv2"]

    def test_stopping_early_and_single_layers(self):
        model = network().eval()

        def kept(net):
            return float((net.conv2.weight != 0).float().mean())

        analysis = facade.SensitivityAnalysis(
            model, kept, prune_type="fine-grained", early_stop_mode="dropped", early_stop_value=0.25
        )
        assert list(analysis.analysis([model], specified_layers=["conv2"])["conv2"]) == [0.1, 0.2, 0.3]

    def test_mistakes(self):
        model = network()
        with pytest.raises(InputError, match="prune_type is 'l3'"):
            facade.SensitivityAnalysis(model, accuracy, prune_type="l3")
        with pytest.raises(InputError, match="early_stop_mode is 'drop'"):
            facade.SensitivityAnalysis(model, accuracy, early_stop_mode="drop", early_stop_value=1)
        with pytest.raises(InputError, match="specified_layers has 'conv9'"):
            facade.SensitivityAnalysis(model, accuracy).analysis([model], specified_layers=["conv9"])
        with pytest.raises(EvaluationError, match="the evaluation function returned None"):
            facade.SensitivityAnalysis(model, lambda _: None).analysis([model])
        assert isinstance(model.conv1.weight, nn.Parameter)
