"""Both dialects of config_list: what entries select, which one holds, and that each mistake names its entry."""

import logging

import pytest
from nni_toys import Residual, network
from torch import nn

from gracile.compat.nni.v2.config_list import rules_of as rules2
from gracile.compat.nni.v3.config_list import rules_of as rules3
from gracile.errors import InputError


def of(rules):
    return {rule.name: rule.ratio for rule in rules}


class TestNni2:
    def test_types_and_names_intersect_and_the_last_entry_holds(self):
        rules = rules2(
            network(),
            [
                {"op_types": ["Conv2d", "Linear"], "sparsity": 0.5},
                {"op_types": ["Conv2d"], "op_names": ["conv2", "fc"], "sparsity_per_layer": 0.8},
            ],
        )
        assert of(rules) == {"conv1.weight": 0.5, "conv2.weight": 0.8, "fc.weight": 0.5}

    def test_default_is_all_that_has_weights_but_norms(self):
        assert set(of(rules2(network(), [{"op_types": ["default"], "sparsity": 0.5}]))) == {
            "conv1.weight",
            "conv2.weight",
            "fc.weight",
        }

    def test_exclude_takes_out_of_entries_before_it_only(self):
        rules = rules2(
            network(),
            [
                {"op_types": ["default"], "sparsity": 0.5},
                {"op_names": ["conv2", "fc"], "exclude": True},
                {"op_names": ["fc"], "sparsity": 0.9},
            ],
        )
        assert of(rules) == {"conv1.weight": 0.5, "fc.weight": 0.9}

    def test_parts_of_names(self):
        assert set(of(rules2(network(), [{"op_partial_names": ["conv"], "sparsity": 0.5}]))) == {
            "conv1.weight",
            "conv2.weight",
        }

    def test_total_sparsity_makes_a_group_with_caps(self):
        rules = rules2(
            network(),
            [
                {
                    "op_types": ["Conv2d"],
                    "total_sparsity": 0.5,
                    "max_sparsity_per_layer": {"conv1": 0.6},
                }
            ],
        )
        assert {rule.global_group for rule in rules} == {"config_list[0]"}
        assert [rule.max_ratio for rule in rules] == [0.6, 0.99]

    @pytest.mark.parametrize(
        ("entry", "message"),
        [
            ({"sparsity": 0.5}, r"config_list\[1\] selects nothing: give at least one of op_names"),
            ({"op_types": ["Linear"]}, r"config_list\[1\] says nothing of how much goes"),
            ({"op_types": "Linear", "sparsity": 0.5}, r"config_list\[1\]: op_types is the text 'Linear'.*\['Linear'\]"),
            (
                {"op_types": ["Linear"], "sparsity": 1.5},
                r"config_list\[1\]: sparsity is 1.5; give a number in \[0, 1\]",
            ),
            ({"op_types": ["Linear"], "sparsity": True}, r"config_list\[1\]: sparsity is True"),
            ({"op_types": ["Linear"], "sparsty": 0.5}, r"config_list\[1\]: the key 'sparsty' is unknown.*'sparsity'"),
            ({"op_names": ["conv3"], "sparsity": 0.5}, r"config_list\[1\]: op_names has 'conv3'.*did you mean 'conv"),
            ({"op_names": ["relu1"], "sparsity": 0.5}, r"config_list\[1\]: 'relu1' is a ReLU, which has no weight"),
            ({"op_types": ["Linear"], "sparsity": 0.5, "total_sparsity": 0.5}, r"config_list\[1\]: .* twice"),
            (
                {"op_types": ["Linear"], "sparsity": 0.5, "max_sparsity_per_layer": 0.9},
                r"config_list\[1\]: max_sparsity_per_layer goes with total_sparsity",
            ),
            (
                {"op_types": ["Linear"], "total_sparsity": 0.5, "max_sparsity_per_layer": {"cov1": 0.9}},
                r"config_list\[1\]: max_sparsity_per_layer has 'cov1'.*'conv1'",
            ),
            ({"op_types": ["Linear"], "sparsity": 0.5, "rho": 0}, r"config_list\[1\]: rho is 0"),
            ("Linear", r"config_list\[1\] is a str; give a dictionary"),
        ],
    )
    def test_mistakes_name_the_entry(self, entry, message):
        with pytest.raises(InputError, match=message):
            rules2(network(), [{"op_types": ["Conv2d"], "sparsity": 0.5}, entry])

    @pytest.mark.parametrize(
        ("config_list", "message"),
        [
            ({"op_types": ["Conv2d"]}, "config_list is a dictionary; give a list"),
            ([], "config_list is empty"),
            ([{"op_types": ["Conv3d"], "sparsity": 0.5}], "selects no module with a weight in Sequential"),
        ],
    )
    def test_mistakes_of_the_whole(self, config_list, message):
        with pytest.raises(InputError, match=message):
            rules2(network(), config_list)

    def test_a_type_that_the_model_has_not_is_logged(self, caplog):
        with caplog.at_level(logging.WARNING):
            rules2(network(), [{"op_types": ["Conv2d", "Conv3d"], "sparsity": 0.5}])
        assert "config_list[0]: op_types has 'Conv3d', and the model has no such module" in caplog.text


class TestNni3:
    def test_names_and_patterns_unite_types_intersect_and_excludes_take_out(self):
        rules = rules3(
            Residual(),
            [
                {
                    "op_names": ["fc"],
                    "op_names_re": ["conv."],
                    "op_types": ["Conv2d"],
                    "exclude_op_names_re": [".*3"],
                    "sparse_ratio": 0.5,
                }
            ],
        )
        assert of(rules) == {"conv1.weight": 0.5, "conv2.weight": 0.5}

    def test_excluded_types(self):
        entry = {"op_types": ["Conv2d", "Linear"], "exclude_op_types": ["Linear"], "sparse_ratio": 0.5}
        assert set(of(rules3(network(), [entry]))) == {"conv1.weight", "conv2.weight"}

    def test_the_last_entry_holds_for_each_target(self):
        rules = rules3(
            network(),
            [
                {"op_types": ["Conv2d"], "sparse_ratio": 0.5},
                {"op_names": ["conv1"], "sparse_ratio": 1},
            ],
        )
        assert of(rules) == {"conv1.weight": 1.0, "conv2.weight": 0.5}

    def test_settings_of_targets_override_the_entry(self):
        (rule,) = rules3(
            network(),
            [
                {
                    "op_names": ["conv2"],
                    "sparse_ratio": 0.5,
                    "target_settings": {"weight": {"granularity": "in_channel", "sparse_ratio": 0.25}},
                }
            ],
        )
        assert (rule.ratio, rule.granularity) == (0.25, "in_channel")

    def test_the_bias_follows_the_weight(self):
        (rule,) = rules3(network(), [{"op_names": ["conv2"], "sparse_ratio": 0.5}])
        assert rule.followers == (("bias", (0,)),)

    def test_a_bias_with_settings_of_its_own_follows_nothing(self):
        entry = {"op_names": ["fc"], "sparse_ratio": 0.5, "target_settings": {"bias": {"sparse_ratio": 0.25}}}
        bias, weight = rules3(network(), [entry])
        assert (bias.target, bias.ratio) == ("bias", 0.25)
        assert (weight.target, weight.followers) == ("weight", ())

    def test_keys_of_former_releases_are_taken(self):
        rules = rules3(
            network(),
            [
                {"op_types": ["Conv2d", "Linear"], "total_sparsity": 0.5, "max_sparsity_per_layer": 0.8},
                {"op_names": ["fc"], "exclude": True},
            ],
        )
        assert of(rules) == {"conv1.weight": 0.5, "conv2.weight": 0.5}
        assert {(rule.global_group, rule.max_ratio) for rule in rules} == {("config_list[0]", 0.8)}

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({}, "says nothing of how much goes"),
            ({"sparse_ratio": "half"}, "sparse_ratio is 'half'; give a number"),
            ({"sparse_ratio": 0.5, "sparse_threshold": 0.1}, "exclude each other"),
            ({"sparse_ratio": 0.5, "min_sparse_ratio": 0.8, "max_sparse_ratio": 0.2}, "min_sparse_ratio 0.8 is above"),
            ({"sparse_ratio": 0.5, "granularity": "out_chanel"}, "granularity is 'out_chanel'.*'out_channel'"),
            ({"sparse_ratio": 0.5, "granularity": [0, 1]}, "sizes are whole numbers from 1"),
            ({"sparse_ratio": 0.5, "internal_metric_block": 0}, "internal_metric_block is 0"),
            ({"sparse_ratio": 0.5, "apply_method": "mull"}, "apply_method is 'mull'.*did you mean 'mul'"),
            ({"sparse_ratio": 0.5, "target_names": ["wight"]}, "has no parameter 'wight'.*'weight'"),
            ({"sparse_ratio": 0.5, "target_names": ["_input_"]}, "'_input_' of 'conv1' is an input or output"),
            ({"sparse_ratio": 0.5, "target_settings": {"weight": {"ratio": 1}}}, "the key 'ratio' is unknown"),
            ({"sparse_ratio": 0.5, "target_settings": {"bias": {"align": {}}}}, "align is {}"),
            ({"sparse_ratio": 0.5, "op_names_re": ["("]}, "no regular expression"),
            ({"sparse_ratio": 0.5, "sparsity": 0.5}, "say the same thing twice"),
        ],
    )
    def test_mistakes_name_the_entry(self, settings, message):
        with pytest.raises(InputError, match=rf"(?s)config_list\[1\].*{message}"):
            rules3(
                network(),
                [{"op_types": ["Linear"], "sparse_ratio": 0.5}, {"op_names": ["conv1"], **settings}],
            )

    def test_one_group_has_one_ratio(self):
        with pytest.raises(InputError, match=r"config_list\[1\]: 'conv2' has sparse_ratio 0.6, and 'conv1'.* 0.5"):
            rules3(
                network(),
                [
                    {"op_names": ["conv1"], "sparse_ratio": 0.5, "global_group_id": "a"},
                    {"op_names": ["conv2"], "sparse_ratio": 0.6, "global_group_id": "a"},
                ],
            )

    def test_a_model_without_weights(self):
        with pytest.raises(InputError, match="selects no module with a weight in Sequential"):
            rules3(nn.Sequential(nn.ReLU()), [{"op_types": ["ReLU"], "sparse_ratio": 0.5}])
