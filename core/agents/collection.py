"""Online source: training batches from a replay that the policy fills while it learns.

Each round, every environment takes one step. Rounds alternate with updates as the train
ratio asks, and environments step while the model is updated.
"""

import collections
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from core.agents.envs.pool import Pool
from core.agents.policy import Policy, jit_policy, observed, zero_actions
from core.agents.replay import Replay
from core.agents.spaces import Spaces
from core.base.text import short
from core.base.waiting import Stopped, never
from core.method import Report

RECENT = 10  # finished episodes that the reported score averages
CURSOR = ("rounds", "updates", "credit", "episodes", "bad")  # counters that are saved


class Online:
    """A core.method.Source of windows [B, length, ...] of the policy's own experience.

    Args:
      make_pool: seed= -> Pool of `replay.streams` environments; called before the first
        step, so that a finished run starts none.
      replay: with the shapes of `step_shapes` and of `policy.kept_shapes`.
      policy: acts with the parameters of the state that `next` is given.
      prefill: () -> None, called once if the replay is empty.
      spaces, actions: of the environments.
      batch: windows of a batch, B.
      ratio: steps trained on per step taken.
      first_steps: windows in the replay before the first update, counted as in the public
        code: a step from which a whole window has been taken.
      seed: of environments, actions and drawn windows.
    """

    def __init__(
        self,
        make_pool: Callable[..., Pool],
        replay: Replay,
        policy: Policy,
        prefill: Callable[[], None],
        *,
        spaces: Spaces,
        actions: Spaces,
        batch: int,
        ratio: float,
        first_steps: int,
        seed: int,
    ):
        self.make_pool, self.pool, self.count = make_pool, None, replay.streams
        self.replay, self.policy, self.prefill = replay, policy, prefill
        self.act_once = jit_policy(policy, actions, seed=seed)
        self.copy_kept = jax.jit(make_copy(policy))
        self.spaces, self.actions = spaces, actions
        self.batch, self.ratio, self.seed = batch, ratio, seed
        self.first_steps, self.began = first_steps, False
        self.rounds = self.updates = self.episodes = self.bad = 0
        self.credit = 0  # steps that may be trained on for those taken
        self.carry = None  # of the policy, once there are environments
        self.scores = collections.deque(maxlen=RECENT)
        self.lengths = collections.deque(maxlen=RECENT)
        self.score = np.zeros(self.count)
        self.age = np.zeros(self.count, int)
        self.last_windows = (
            None  # of the batch before, whose update has been dispatched
        )
        self.pending = None  # (windows, their newer kept arrays, still being computed)

    def next(self, state: Any = None, stopping: Callable[[], bool] = never) -> dict:
        """The next batch: steps [B, length, ...] by name, kept arrays [B, ...].

        Acts first, by the parameters of `state`, if the train ratio asks for it. Raises
        Stopped if `stopping()` between two steps of the environments.
        """
        assert state is not None, "an online source needs the state to act with"
        self.write_back(state)
        if not self.replay.added:
            self.prefill()
        cost = self.batch * self.replay.length
        while not self.enough() or self.credit < cost:
            if stopping():
                raise Stopped
            began = self.began
            self.act(state.params)
            # The first update is due at once, as in the public code.
            due = self.ratio * self.count if began else cost
            self.credit += due if self.enough() else 0
        self.credit -= cost
        rng = np.random.default_rng([self.seed, self.updates])
        self.updates += 1
        self.last_windows = self.replay.draw_windows(self.batch, rng)
        return self.replay.read(self.last_windows)

    def enough(self) -> bool:
        """Whether updates may begin, or have begun."""
        self.began = self.began or self.replay.windows >= max(1, self.first_steps)
        return self.began

    def start_pool(self) -> Pool:
        """Start the environments; the next step begins an episode in each."""
        # A resumed run gets other episodes than those that it began with.
        words = np.random.SeedSequence([self.seed, self.rounds]).generate_state(1)
        pool = self.make_pool(seed=int(words[0]) if self.rounds else self.seed)
        self.carry = jax.jit(self.policy.first_carry, static_argnums=0)(self.count)
        nothing = zero_actions(self.actions, self.count)
        pool.send(nothing | {"reset": np.ones(self.count, bool)})
        return pool

    def act(self, params):
        """One step of all environments, added to the replay with the action after it."""
        if self.pool is None:
            self.pool = self.start_pool()
        step = self.pool.receive()
        # Explicit transfers: the train loop forbids implicit ones.
        observation = jax.device_put(observed(self.spaces, step))
        count = jax.device_put(np.int32(self.rounds))
        self.carry, named, kept = self.act_once(params, self.carry, observation, count)
        named, kept = jax.device_get((named, kept))
        self.pool.send(named | {"reset": np.zeros(self.count, bool)})
        # The action chosen after an episode's last step is never executed.
        kept["action"] = kept["action"] * ~step["is_last"][:, None]
        self.replay.add(step | kept)
        self.rounds += 1
        self.count_episodes(step)

    def count_episodes(self, step):
        """Update scores and lengths; those of episodes that end now are reported."""
        self.score = np.where(step["is_first"], 0, self.score) + step["reward"]
        self.age = np.where(step["is_first"], 0, self.age) + 1
        for i in np.flatnonzero(step["is_last"]):
            self.scores.append(float(self.score[i]))
            self.lengths.append(int(self.age[i]))
            self.episodes += 1

    def write_back(self, state):
        """Write the kept arrays of the last update into the replay, one update late.

        They are copied on the device now, since the next update takes the state's memory,
        and read at the next call, so that nothing waits for the device.
        """
        if self.policy.updated_kept is None:
            return
        if self.pending is not None:
            windows, kept = self.pending
            self.replay.update_kept(windows, jax.device_get(kept))
        self.pending = None
        if self.last_windows is not None:
            kept = self.copy_kept(self.policy.updated_kept(state))
            self.pending = self.last_windows, kept
        self.last_windows = None

    def get_state(self) -> dict:
        """The cursor; saves the replay's steps beside the checkpoints."""
        self.replay.save()
        cursor = {name: getattr(self, name) for name in CURSOR}
        return cursor | {"added": self.replay.added}

    def set_state(self, state: dict):
        self.replay.load(state["added"])
        for name in CURSOR:
            setattr(self, name, state[name])
        if self.replay.holed:
            logging.warning("%s", self.what_is_lost())

    def what_is_lost(self) -> str:
        """A sentence about the steps that the replay's folder no longer has."""
        replay = self.replay
        lost = int(replay.holes.sum())
        text = f"{replay.folder} lacks {lost:,} of the last {len(replay):,} steps"
        if self.enough():
            return f"{text}; the others are trained on"
        return f"{text}; it is filled again by acting before training goes on"

    def report(self) -> Report:
        """Rounds so far, files and environments that failed, scores of recent episodes."""
        new = self.replay.bad + (self.pool.take_events() if self.pool else [])
        self.replay.bad, self.bad = [], self.bad + len(new)
        numbers: dict[str, float] = {
            "env_steps": self.rounds * self.count,
            "episodes": self.episodes,
            "replay_steps": len(self.replay),
        }
        if self.scores:
            numbers["score"] = float(np.mean(self.scores))
            numbers["last_score"] = self.scores[-1]
            numbers["episode_steps"] = float(np.mean(self.lengths))
            said = f"last score {short(numbers['last_score'])}"
        else:
            since = " since the resume" if self.episodes else ""
            said = f"no episode has ended{since}"
        return {
            "seen": self.rounds,
            "bad": self.bad,
            "new": new,
            "numbers": numbers,
            "said": f"env steps {numbers['env_steps']:,}  {said}",
        }

    def close(self):
        if self.pool:
            self.pool.close()


def make_copy(policy: Policy) -> Callable:
    """kept -> a copy of its arrays in the replay's dtypes."""

    def copy(kept):
        return {
            name: jnp.copy(kept[name]).astype(dtype)
            for name, (_, dtype) in policy.kept_shapes.items()
        }

    return copy
