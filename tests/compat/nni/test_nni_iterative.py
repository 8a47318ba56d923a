"""NNI 2's iterative pruners: schedules, what stays masked, rewinding, cuts between rounds, searches, files."""

import json
from itertools import pairwise

import pytest
import torch
from nni_toys import IMAGES, Residual, accuracy, by_criterion, evaluator2, network, shares
from support.optional import optional
from torch.nn import functional as F

import gracile
from gracile.compat.nni import v2
from gracile.compat.nni.v2.amc import options_of
from gracile.errors import InputError, TargetError

CONVS = [{"op_types": ["Conv2d"], "sparsity": 0.75}]
TOTAL = [{"op_types": ["Conv2d"], "total_sparsity": 0.5}]
FAST = {"cool_down_rate": 0.6}


class Watched(v2.LinearPruner):
    """Keeps what each round gave."""

    def __init__(self, *arguments, **options):
        self.seen = []
        super().__init__(*arguments, **options)

    def _note(self, result):
        self.seen.append(result)
        super()._note(result)


def unchanged(model, before):
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


class TestSchedules:
    def test_linear_goes_from_nothing_to_all_in_equal_steps(self):
        model = network()
        pruner = Watched(model, CONVS, "l1", 3, evaluator=evaluator2(model))
        pruner.compress()
        assert [result.config_list[0]["sparsity"] for result in pruner.seen] == [0.0, 0.25, 0.5, 0.75]
        assert [shares(result.masks)["conv2"] for result in pruner.seen] == [1.0, 0.75, 0.5, 0.25]
        masks = [result.masks["conv2"]["bias"] for result in pruner.seen]
        assert all(bool((later <= earlier).all()) for earlier, later in pairwise(masks))

    def test_agp_is_cubic(self):
        class Cubic(Watched, v2.AGPPruner):
            pass

        pruner = Cubic(network(), [{"op_names": ["fc"], "sparsity": 0.75}], "level", 3)
        pruner.compress()
        found = [result.config_list[0]["sparsity"] for result in pruner.seen]
        assert found == pytest.approx([0.0, 0.75 * 19 / 27, 0.75 * 26 / 27, 0.75])
        assert shares(pruner.get_best_result().masks)["fc"] == 0.25

    def test_a_lottery_ticket_keeps_first_values(self):
        class Tickets(Watched, v2.LotteryTicketPruner):
            pass

        model = network()
        before = snapshot(model)
        pruner = Tickets(model, CONVS, "l1", 2, evaluator=evaluator2(model))
        ticket, masks = pruner.compress()
        # Half of what is left goes in each of the two rounds.
        assert [result.config_list[0]["sparsity"] for result in pruner.seen] == pytest.approx([0.5, 0.75])
        assert torch.equal(ticket.conv2.weight, before["conv2.weight"] * masks["conv2"]["weight"])
        assert torch.equal(ticket.fc.weight, before["fc.weight"])
        # The masks are of trained weights: with trained ones the first round's masks are others.
        plain, _ = v2.LotteryTicketPruner(
            model, CONVS, "l1", 2, evaluator=evaluator2(model), reset_weight=False
        ).compress()
        assert not torch.equal(plain.fc.weight, before["fc.weight"])

    def test_the_given_model_and_the_optimizer_stay(self):
        model = network()
        before, evaluator = snapshot(model), evaluator2(model)
        pruner = v2.AGPPruner(model, CONVS, "l1", 2, evaluator=evaluator, speedup=True)
        small, masks = pruner.compress()
        assert unchanged(model, before)
        assert evaluator.optimizers[0].param_groups[0]["params"][0] is model.conv1.weight
        assert not evaluator.optimizers[0].state
        assert (small.conv1.out_channels, small.conv2.in_channels, small.conv2.out_channels) == (2, 2, 2)
        assert masks == {}
        task, found, _, score, entries = pruner.get_best_result()
        assert (task, score, entries) == (2, accuracy(found), CONVS)

    def test_without_an_evaluator_rounds_only_mask(self):
        pruner = v2.LinearPruner(network(), CONVS, "fpgm", 2)
        model, masks = pruner.compress()
        assert pruner.get_best_result().score is None
        # The result is plain, with zeros where the masks are.
        assert not model.conv2.weight[masks["conv2"]["weight"] == 0].any()
        assert "parametrizations" not in dict(model.conv2.named_children())

    @pytest.mark.parametrize(
        ("algorithm", "parameters", "entries"),
        [
            ("level", {"mode": "balance", "balance_gran": [3, 3]}, CONVS),
            ("l2", {"mode": "dependency_aware", "dummy_input": IMAGES[:1]}, CONVS),
            ("slim", {"training_epochs": 1}, [{"op_types": ["BatchNorm2d"], "total_sparsity": 0.5}]),
            ("apoz", {"training_steps": 2}, CONVS),
            ("mean_activation", {"training_steps": 2}, CONVS),
            ("taylorfo", {"training_steps": 2, "mode": "global"}, TOTAL),
            ("admm", {"iterations": 1, "training_epochs": 1}, CONVS),
        ],
    )
    def test_all_basic_pruners_go(self, algorithm, parameters, entries):
        model = network()
        pruner = v2.AGPPruner(model, entries, algorithm, 2, evaluator=evaluator2(model), pruning_params=parameters)
        _, masks = pruner.compress()
        entry = entries[0]
        kept = sum(float(mask["weight"].sum()) for mask in masks.values())
        total = sum(mask["weight"].numel() for mask in masks.values())
        wanted = 1 - entry.get("sparsity", entry.get("total_sparsity"))
        # In tiles of nine elements six go.
        assert kept / total == pytest.approx(3 / 9 if algorithm == "level" else wanted, abs=0.07)

    def test_cuts_between_rounds_end_at_the_same_widths(self):
        model = Residual()
        entry = [{"op_names": ["conv1", "conv2"], "sparsity": 0.5}]
        options = {"mode": "dependency_aware", "dummy_input": IMAGES[:1]}
        pruner = v2.LinearPruner(
            model, entry, "l1", 4, evaluator=evaluator2(model), speedup=True, pruning_params=options
        )
        small, _ = pruner.compress()
        assert (small.conv1.out_channels, small.conv2.out_channels, small.conv3.in_channels) == (4, 4, 4)


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"pruning_algorithm": "taylor"}, "pruning_algorithm is 'taylor'; did you mean 'taylorfo'"),
            ({"total_iteration": 0}, "LinearPruner: total_iteration is 0"),
            ({"speedup": True}, "speedup=True follows channels through the model: give an evaluator with dummy_input"),
            ({"keep_intermediate_result": True}, "keep_intermediate_result=True needs log_dir"),
            ({"pruning_algorithm": "taylorfo"}, "pruning_params of 'taylorfo'.*training_steps"),
            ({"pruning_params": {"moode": "normal"}}, "pruning_params of 'l1'.*L1NormPruner takes mode, dummy_input"),
            ({"pruning_params": ["normal"]}, "pruning_params is a list"),
            ({"config_list": [{"op_types": ["Conv2d"]}]}, r"config_list\[0\] says nothing of how much goes"),
            ({"evaluator": accuracy}, "evaluator is a function"),
        ],
    )
    def test_mistakes_show_at_once_and_leave_the_model(self, options, message):
        model = network()
        given = {"config_list": CONVS, "pruning_algorithm": "l1", "total_iteration": 2, **options}
        with pytest.raises(InputError, match=message):
            v2.LinearPruner(model, **given)
        assert isinstance(model.conv1.weight, torch.nn.Parameter)

    def test_there_is_no_result_before_compress(self):
        with pytest.raises(InputError, match=r"there is no result yet; call compress\(\)"):
            v2.LinearPruner(network(), CONVS, "l1", 1).get_best_result()


class TestFiles:
    def test_nothing_is_written_unless_asked(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        v2.LinearPruner(network(), CONVS, "l1", 1).compress()
        assert list(tmp_path.iterdir()) == []

    def test_results_under_log_dir(self, tmp_path):
        pruner = v2.LinearPruner(network(), CONVS, "l1", 2, log_dir=tmp_path, keep_intermediate_result=True)
        model, masks = pruner.compress()
        names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
        assert names == [
            "best_result/best_masks.pth",
            "best_result/best_model.pth",
            "best_result/config_list.json",
            *(
                f"intermediate_result/{place}/{name}"
                for place in range(3)
                for name in ("config_list.json", "masks.pth", "model.pth")
            ),
        ]
        stored = torch.load(tmp_path / "best_result" / "best_model.pth", weights_only=True)
        assert torch.equal(stored["conv2.weight"], model.conv2.weight)
        kept = torch.load(tmp_path / "best_result" / "best_masks.pth", weights_only=True)
        assert torch.equal(kept["conv2"]["weight"], masks["conv2"]["weight"])
        assert json.loads((tmp_path / "best_result" / "config_list.json").read_text()) == CONVS

    def test_a_cut_result_comes_back_through_its_plan(self, tmp_path):
        model = network()
        pruner = v2.AGPPruner(model, CONVS, "l1", 1, log_dir=tmp_path, evaluator=evaluator2(model), speedup=True)
        small, _ = pruner.compress()
        folder = tmp_path / "best_result"
        fresh = gracile.apply(network(), gracile.Plan.from_json((folder / "best_plan.json").read_text()))
        fresh.load_state_dict(torch.load(folder / "best_model.pth", weights_only=True))
        assert torch.equal(fresh.eval()(IMAGES), small.eval()(IMAGES))


class TestAnnealing:
    def pruner(self, model, evaluator=None, **options):
        options = {"pruning_algorithm": "l1", **FAST, **options}
        return v2.SimulatedAnnealingPruner(model, TOTAL, evaluator or evaluator2(model), **options)

    def test_it_meets_the_total_and_leaves_the_model(self):
        model = network()
        before = snapshot(model)
        pruner = self.pruner(model)
        small, masks = pruner.compress()
        assert unchanged(model, before)
        gone = sum(int((mask["weight"] == 0).sum()) for mask in masks.values())
        total = sum(mask["weight"].numel() for mask in masks.values())
        # To within one filter, of 72 elements.
        assert 0.5 <= gone / total <= 0.5 + 72 / total
        assert not small.conv2.weight[masks["conv2"]["weight"] == 0].any()
        found = {entry["op_names"][0]: entry["sparsity"] for entry in pruner.get_best_result().config_list}
        assert found == pytest.approx({name: 1 - share for name, share in shares(masks).items()})

    def test_one_seed_one_result_and_the_best_of_those_that_were_tried(self):
        scores = []

        def watching(model):
            scores.append(accuracy(model))
            return scores[-1]

        results = []
        for seed in (3, 3, 4):
            model = network()
            torch.manual_seed(0)
            model.load_state_dict(network().state_dict())
            pruner = self.pruner(model, evaluator2(model, evaluating_func=watching), seed=seed)
            pruner.compress()
            results.append(pruner.get_best_result())
        assert results[0].config_list == results[1].config_list
        assert results[0].score == results[1].score
        assert len(scores) > 6

    def test_no_layer_passes_its_cap(self):
        entry = [{**TOTAL[0], "max_sparsity_per_layer": 0.5}]
        model = network()
        pruner = v2.SimulatedAnnealingPruner(model, entry, evaluator2(model), pruning_algorithm="l1", **FAST)
        _, masks = pruner.compress()
        assert shares(masks) == {"conv1": 0.5, "conv2": 0.5}

    def test_a_search_goes_on_from_its_file(self, tmp_path):
        calls = []

        def counting(model):
            calls.append(None)
            return accuracy(model)

        model = network()
        first = self.pruner(model, evaluator2(model, evaluating_func=counting), log_dir=tmp_path)
        first.compress()
        tried = len(calls)
        again = self.pruner(model, evaluator2(model, evaluating_func=counting), log_dir=tmp_path)
        again.compress()
        assert again.get_best_result().config_list == first.get_best_result().config_list
        # The model as it is, and the result.
        assert len(calls) - tried == 2

    def test_mistakes(self):
        model = network()
        with pytest.raises(InputError, match=r"config_list\[0\]: the search finds each layer's sparsity"):
            v2.SimulatedAnnealingPruner(model, CONVS, evaluator2(model))
        with pytest.raises(InputError, match=r"config_list\[1\] is a second total_sparsity"):
            v2.SimulatedAnnealingPruner(
                model, [*TOTAL, {"op_types": ["Linear"], "total_sparsity": 0.5}], evaluator2(model)
            )
        with pytest.raises(InputError, match="SimulatedAnnealingPruner compares models"):
            v2.SimulatedAnnealingPruner(model, TOTAL, evaluator2(model, evaluating_func=None))


class TestAutoCompress:
    @pytest.mark.parametrize("speedup", [False, True])
    def test_rounds_end_at_the_total(self, speedup):
        model = network()
        before = snapshot(model)
        pruner = v2.AutoCompressPruner(
            model, TOTAL, 2, {"iterations": 1, "training_epochs": 1}, {"pruning_algorithm": "l1", **FAST},
            evaluator=evaluator2(model), speedup=speedup,
        )  # fmt: skip
        small, masks = pruner.compress()
        assert unchanged(model, before)
        weights = (small.conv1.weight, small.conv2.weight)
        left = (
            sum(weight.numel() for weight in weights)
            if speedup
            else sum(int(m["weight"].sum()) for m in masks.values())
        )
        total = model.conv1.weight.numel() + model.conv2.weight.numel()
        assert left / total <= 0.5
        found = {entry["op_names"][0]: entry["sparsity"] for entry in pruner.get_best_result().config_list}
        if speedup:
            assert small.conv1.out_channels == round(8 * (1 - found["conv1"]))
            assert small.conv2.out_channels == round(8 * (1 - found["conv2"]))
        else:
            assert shares(masks) == pytest.approx({name: 1 - share for name, share in found.items()})

    def test_single_weights_with_level(self):
        model = network()
        pruner = v2.AutoCompressPruner(
            model, TOTAL, 1, {"iterations": 1, "training_epochs": 1}, FAST, evaluator=evaluator2(model)
        )
        _, masks = pruner.compress()
        assert 0 < masks["conv2"]["weight"].flatten(1).mean(1).max() < 1

    def test_mistakes(self):
        model = network()
        with pytest.raises(InputError, match="sa_params has 'temperature'; it takes start_temperature"):
            v2.AutoCompressPruner(model, TOTAL, 1, {}, {"temperature": 1}, evaluator=evaluator2(model))
        with pytest.raises(InputError, match="admm_params has granularity='coarse-grained', and pruning_algorithm"):
            v2.AutoCompressPruner(
                model, TOTAL, 1, {"iterations": 1, "training_epochs": 1, "granularity": "coarse-grained"}, {},
                evaluator=evaluator2(model),
            )  # fmt: skip
        with pytest.raises(InputError, match=r"pruning_params of 'admm'.*iterations"):
            v2.AutoCompressPruner(model, TOTAL, 1, {}, {}, evaluator=evaluator2(model))


class TestAmc:
    def test_the_target_is_met_with_what_is_added_cut_together(self):
        optional("stable_baselines3")
        model = Residual()
        entry = [{"op_types": ["Conv2d"], "total_sparsity": 0.5}]
        before, _, _ = v2.count_flops_params(model, IMAGES[:1], verbose=False)
        agent = {"hidden1": 8, "hidden2": 8, "warmup": 3}
        pruner = v2.AMCPruner(6, model, entry, evaluator2(model), ddpg_params=agent)
        small, _ = pruner.compress()
        after, _, _ = v2.count_flops_params(small, IMAGES[:1], verbose=False)
        assert after <= 0.5 * before
        assert small.conv1.out_channels == small.conv2.out_channels == small.conv3.in_channels
        assert pruner.get_best_result().score == accuracy(small)

    def test_parameters_as_the_target_and_one_seed_one_result(self):
        optional("stable_baselines3")
        results = []
        for _ in range(2):
            torch.manual_seed(0)
            model = network()
            entry = [{"op_types": ["Conv2d"], "total_sparsity": 0.4}]
            pruner = v2.AMCPruner(
                5, model, entry, evaluator2(model), "l2", ddpg_params={"hidden1": 8, "hidden2": 8}, target="params"
            )
            small, _ = pruner.compress()
            assert sum(p.numel() for p in small.parameters()) <= 0.6 * sum(p.numel() for p in model.parameters())
            results.append(pruner.get_best_result())
        assert results[0].config_list == results[1].config_list

    def test_a_target_out_of_reach(self):
        optional("stable_baselines3")
        model = network()
        entry = [{"op_names": ["conv1"], "total_sparsity": 0.9}]
        with pytest.raises(TargetError, match="cannot be reached"):
            v2.AMCPruner(4, model, entry, evaluator2(model)).compress()

    def test_the_agent_s_parameters(self):
        found = options_of(40, {"hidden1": 100, "lr_a": 0.01, "warmup": 10, "init_delta": 0.3, "bsize": 16})
        assert (found.episodes, found.hidden_sizes, found.actor_learning_rate) == (40, (100, 300), 0.01)
        assert (found.warm_up_episodes, found.noise, found.batch_size, found.discount) == (10, 0.3, 16, 1.0)
        with pytest.raises(InputError, match="ddpg_params has 'hiden1'; did you mean 'hidden1'"):
            options_of(40, {"hiden1": 100})

    def test_mistakes(self):
        optional("stable_baselines3")
        model = network()
        with pytest.raises(InputError, match="target is 'latency'; it is 'flops' or 'params'"):
            v2.AMCPruner(4, model, TOTAL, evaluator2(model), target="latency")
        with pytest.raises(InputError, match=r"pruning_algorithm is 'level'.*; it is one of l1, l2"):
            v2.AMCPruner(4, model, TOTAL, evaluator2(model), "level")
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        evaluator = v2.TorchEvaluator(by_criterion, optimizer, F.cross_entropy, evaluating_func=accuracy)
        with pytest.raises(InputError, match="give an evaluator with dummy_input"):
            v2.AMCPruner(4, model, TOTAL, evaluator)
