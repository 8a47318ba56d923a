import random

import numpy as np
import pytest
import torch
from search_toys import Scored, problem

pytest.importorskip("stable_baselines3", reason="needs the extra rl")

from gracile.progress import bar
from gracile.search.amc import Walk
from gracile.search.amc_agent import Compression, TruncatedNormal, kept_randomness, select_amc
from gracile.search.joint import JointScores
from gracile.search_options import AMC
from gracile.store import Store

SHORT = AMC(episodes=40, hidden_sizes=(16, 16), batch_size=16, actor_learning_rate=1e-3, critic_learning_rate=1e-2)


def fragile_first(sizes):
    return 1.0 - 0.1 * (10 - sizes["a"]) - 0.01 * (10 - sizes["b"])


def test_the_reward_comes_once_at_the_end():
    task = problem([1, 1, 1], bound=20)
    toy = Scored(task, lambda sizes: 0.1 * sizes["a"] - 0.5)
    with bar("test", None) as progress:
        environment = Compression(Walk(task), toy.scores, progress)
        state, _ = environment.reset()
        assert environment.observation_space.contains(state)
        rewards, over = [], False
        while not over:
            assert not toy.calls
            state, reward, over, truncated, _ = environment.step(np.array([0.4], dtype=np.float32))
            assert environment.observation_space.contains(state)
            assert not truncated
            rewards.append(reward)
    # 6 of 10 stay: a score of 0.1, where the original has 1.
    assert rewards == [0.0, 0.0, pytest.approx(-0.9)]
    assert len(toy.calls) == 1


def test_noise_is_none_in_the_warm_up_and_then_decays():
    episode = 0
    noise = TruncatedNormal(AMC(episodes=40, warm_up=0.25), 0.8, 0, lambda: episode)
    assert noise.deviation == 0.0
    assert noise() == 0.0
    episode = 9
    assert noise.deviation == 0.0
    episode = 10
    assert noise.deviation == 0.5
    episode = 12
    assert noise.deviation == pytest.approx(0.5 * 0.99**2)
    # An action near its limit is disturbed inwards only.
    noise.mean = np.full(1000, 0.999)
    assert np.all(noise() <= 0.001)
    assert np.all(noise.mean + noise() >= -1)
    assert np.std(noise()) > 0.1


def test_the_agent_finds_the_layer_that_must_stay_and_meets_the_target():
    task = problem([1, 1], bound=11)
    toy = Scored(task, fragile_first)
    choice = select_amc(task, toy.scores, SHORT, seed=0)
    assert all(sum({"a": 10, "b": 10, **sizes}.values()) <= 11 for sizes in toy.calls)
    assert choice.levels[0] > choice.levels[1]
    best = max(fragile_first({"a": 10, "b": 10, **sizes}) for sizes in toy.calls)
    assert fragile_first({"a": choice.levels[0] + 1, "b": choice.levels[1] + 1}) == best


def test_learning_moves_the_actions_towards_what_scores_well(monkeypatch):
    task = problem([1, 1], bound=11)
    history = []

    def remembering(scores, levels, plain=JointScores.__call__):
        history.append(plain(scores, levels))
        return history[-1]

    monkeypatch.setattr(JointScores, "__call__", remembering)
    options = AMC(
        episodes=200, hidden_sizes=(32, 32), batch_size=32, actor_learning_rate=1e-3, critic_learning_rate=1e-2,
        noise_decay=0.97,
    )  # fmt: skip
    select_amc(task, Scored(task, fragile_first).scores, options, seed=1)
    assert len(history) == 200
    assert np.mean(history[-30:]) > np.mean(history[:50]) + 0.1


def test_same_seed_same_result_and_a_killed_search_goes_on(tmp_path):
    task = problem([1, 2, 1], bound=22)

    def score(sizes):
        # A function that draws random numbers itself must not make the second run another one.
        random.random(), np.random.random(), torch.rand(1)
        return fragile_first(sizes)

    whole = Scored(task, score)
    wanted = select_amc(task, whole.scores, SHORT, seed=2)
    assert select_amc(task, Scored(task, score).scores, SHORT, seed=2) == wanted
    with Store(tmp_path / "x.db") as store, pytest.raises(RuntimeError, match="killed"):
        select_amc(task, Scored(task, score, store=store, fails_after=15).scores, SHORT, seed=2)
    with Store(tmp_path / "x.db") as store:
        rest = Scored(task, score, store=store)
        assert select_amc(task, rest.scores, SHORT, seed=2) == wanted
    assert len(rest.calls) == len(whole.calls) - 15


def test_the_global_generators_are_left_alone():
    def draws():
        return random.random(), float(np.random.random()), float(torch.rand(1))

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    wanted = draws()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with kept_randomness():
        draws()
    task = problem([1, 1], bound=11)
    select_amc(task, Scored(task, fragile_first).scores, AMC(episodes=2, hidden_sizes=(4,)), seed=0)
    assert draws() == wanted


def test_a_model_that_meets_the_target_stays():
    task = problem([1, 1], bound=20)
    toy = Scored(task, fragile_first)
    assert select_amc(task, toy.scores, SHORT, seed=0).levels == (9, 9)
    assert not toy.calls
