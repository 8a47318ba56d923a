"""AMC's agent: deep deterministic policy gradients of stable-baselines3, an optional package (extra "rl").

This module imports it at once; `gracile.search.select` loads the module when the search is asked for.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3 import DDPG
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise

from gracile.progress import Bar, bar
from gracile.search.amc import STATES, Walk, truncated_normal
from gracile.search.joint import JointScores
from gracile.search.problem import Choice, Floats, Problem
from gracile.search_options import AMC


def select_amc(problem: Problem, scores: JointScores, options: AMC, seed: int) -> Choice:
    """The best model of all episodes.

    Raises:
        TargetError: the lowest levels cost more than the bound.
        EvaluationError: the evaluation function failed.
    """
    problem.require_reachable([0 for _ in problem.columns])
    walk = Walk(problem)
    if not walk.parts or problem.bound >= problem.cost([column.dense for column in problem.columns]):
        return Choice(tuple(column.dense for column in problem.columns), ("AMC: the model meets the target as it is",))
    with bar("AMC", options.episodes) as progress, kept_randomness():
        environment = Compression(walk, scores, progress)
        agent = _agent(environment, walk, options, seed)
        agent.learn(total_timesteps=options.episodes * len(walk.parts), log_interval=None)
    note = (
        f"AMC scored {scores.count} models in {options.episodes} episodes; the best has "
        f"{environment.best_score:.6g}, the best of the warm-up {environment.score_after(options.warm_up_episodes):.6g}"
    )
    return Choice(tuple(environment.best), (note,))


class Compression(gymnasium.Env[Floats, Floats]):
    """One episode walks over the parts: the action is the sparsity of the next, the reward comes at the end.

    The reward is the score minus the original's: the paper's -Error but for a constant, for scores of any unit.
    """

    def __init__(self, walk: Walk, scores: JointScores, progress: Bar) -> None:
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (STATES,), dtype=np.float32)
        self.action_space = gymnasium.spaces.Box(0.0, walk.largest_sparsity, (1,), dtype=np.float32)
        self._walk = walk
        self._scores = scores
        self._progress = progress
        self.best: list[int] = []
        self.best_score = -np.inf
        self._history: list[float] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self._walk.begin()
        return self._state(), {}

    def step(self, action: Floats) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        got = self._walk.step(float(action[0]))
        reward = self._scored() if self._walk.done else 0.0
        return self._state(), reward, self._walk.done, False, {"sparsity": got}

    def _scored(self) -> float:
        # A score from the store draws no random numbers, the user's function may: the agent must not feel it.
        with kept_randomness():
            score = self._scores(self._walk.levels)
        if score > self.best_score:
            self.best, self.best_score = list(self._walk.levels), score
        self._history.append(self.best_score)
        self._progress.advance(f"best {self.best_score:.6g}")
        return score - self._scores.baseline

    @property
    def episodes(self) -> int:
        """How many are over."""
        return len(self._history)

    def score_after(self, episodes: int) -> float:
        """The best score of the first ``episodes``."""
        return self._history[min(episodes, len(self._history)) - 1]

    def _state(self) -> Floats:
        return self._walk.state().astype(np.float32)


class TruncatedNormal(ActionNoise):
    """What to add to an action so that it is drawn from a normal distribution around it, cut off at the limits.

    Nothing during the warm-up, whose actions are uniform draws already.
    """

    def __init__(self, options: AMC, width: float, seed: int, episode: Callable[[], int]) -> None:
        super().__init__()
        self._options = options
        self._episode = episode
        # The agent's actions reach from -1 to 1, the sparsities from 0 to ``width``.
        self._unit = 2 / width
        self._random = np.random.default_rng(seed)
        self.mean: Floats = np.zeros(1)

    @property
    def deviation(self) -> float:
        """In sparsity; 0 during the warm-up."""
        after = self._episode() - self._options.warm_up_episodes
        return self._options.noise * self._options.noise_decay**after if after >= 0 else 0.0

    def __call__(self) -> Floats:
        if not self.deviation:
            return np.zeros_like(self.mean)
        uniform = self._random.random(self.mean.shape)
        return truncated_normal(self.mean, self.deviation * self._unit, -1.0, 1.0, uniform) - self.mean


class Transitions(ReplayBuffer):
    """Keeps the sparsities that were carried out, and hands out rewards less a moving average of them.

    Rewards are divided by their standard deviation over the warm-up, so that the learning rates suit scores of any
    unit.
    """

    def __init__(self, *arguments: Any, options: AMC, width: float, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._options = options
        self._width = width
        self._warm_up: list[float] = []
        self.average: float | None = None

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: list[dict[str, Any]]) -> None:
        carried_out = np.full_like(action, 2 * infos[0]["sparsity"] / self._width - 1)
        super().add(obs, next_obs, carried_out, reward, done, infos)
        if done[0]:
            self._note(float(reward[0]))

    def _note(self, reward: float) -> None:
        """Take the reward of one episode into the average."""
        if len(self._warm_up) < self._options.warm_up_episodes:
            self._warm_up.append(reward)
        weight = self._options.baseline_weight
        self.average = reward if self.average is None else self.average + weight * (reward - self.average)

    def _get_samples(self, batch_inds: Any, env: Any = None) -> Any:
        samples = super()._get_samples(batch_inds, env)
        spread = float(np.std(self._warm_up)) or 1.0
        rewards = (samples.rewards - samples.dones * (self.average or 0.0)) / spread
        return samples._replace(rewards=rewards)


class Agent(DDPG):
    """DDPG with a learning rate each for actor and critic, whose noise knows the action that it disturbs."""

    action_noise: TruncatedNormal

    def predict(self, *arguments: Any, **named: Any) -> Any:
        action, state = super().predict(*arguments, **named)
        self.action_noise.mean = np.asarray(self.policy.scale_action(action), dtype=np.float64)
        return action, state

    def set_learning_rates(self, actor: float, critic: float) -> None:
        for optimizer, rate in ((self.actor.optimizer, actor), (self.critic.optimizer, critic)):
            for group in optimizer.param_groups:
                group["lr"] = rate

    def _update_learning_rate(self, optimizers: Any) -> None:
        """Leave the learning rates as they were set."""


def _agent(environment: Compression, walk: Walk, options: AMC, seed: int) -> Agent:
    width = walk.largest_sparsity
    agent = Agent(
        "MlpPolicy",
        environment,
        buffer_size=options.replay_size,
        learning_starts=options.warm_up_episodes * len(walk.parts),
        batch_size=options.batch_size,
        tau=options.tau,
        gamma=options.discount,
        train_freq=(1, "episode"),
        gradient_steps=-1,
        action_noise=TruncatedNormal(options, width, seed, lambda: environment.episodes),
        replay_buffer_class=Transitions,
        replay_buffer_kwargs={"options": options, "width": width},
        policy_kwargs={"net_arch": list(options.hidden_sizes)},
        seed=seed,
        device="cpu",
    )
    agent.set_learning_rates(options.actor_learning_rate, options.critic_learning_rate)
    return agent


@contextmanager
def kept_randomness() -> Iterator[None]:
    """The global random generators are afterwards as they were before."""
    plain, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(plain)
            np.random.set_state(arrays)
