"""A source whose batches are an agent's own experience: it acts while training goes on.

Each round every environment takes one step; the rounds alternate with the updates that
the train ratio asks for, and environments step while the model is updated.
"""

import collections

import jax
import jax.numpy as jnp
import numpy as np

from core.agents import action_distributions
from core.agents.replay import LATENT, Replay
from core.data.steps import FLAGS
from dreamer import world_model
from dreamer.rssm import Latent

RECENT = 10  # finished episodes that the reported score is the mean of


def make_policy(model, choose, *, seed):
    """(params, carry, observations [E, ...], round) -> (carry, actions, what to keep).

    The carry is the state of each environment's world and the action it took last.
    choose: (params, latent, key) -> actions [E, A], an actor's or a planner's.
    """

    def policy(params, carry, obs, count):
        latent, action = carry
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), count))
        one = {k: x[:, None] for k, x in obs.items()} | {"action": action[:, None]}
        gumbel = world_model.noise_of(model, one, keys[0])
        states, _ = world_model.observe(model, params, latent, one, gumbel)
        latent = jax.tree.map(lambda x: x[0], states)
        action = choose(params, latent, keys[1])
        ids = jnp.argmax(latent.stoch, -1).astype(jnp.uint8)
        kept = {"action": action, "stoch": ids}
        kept["deter"] = latent.deter.astype(jnp.float16)
        return (
            (latent, action),
            action_distributions.as_actions(model.actions, action),
            kept,
        )

    return jax.jit(policy)


def no_carry(model, count):
    """Nothing known and nothing done, for `count` environments."""
    return model.rssm.first(count), jnp.zeros((count, model.rssm.action))


def nothing(actions, count) -> dict:
    """Actions that say nothing, for `count` environments that begin anew."""
    kinds = {name: np.int32 if s.is_discrete else np.float32 for name, s in actions}
    return {name: np.zeros((count, *s.shape), kinds[name]) for name, s in actions}


def step_shapes(model) -> dict:
    """{name: (shape, dtype)} of a step in the replay."""
    shapes = {name: (space.shape, space.dtype) for name, space in model.spaces}
    flags = dict.fromkeys(FLAGS, ((), "bool"))
    rest = {"action": ((model.rssm.action,), "float32"), "reward": ((), "float32")}
    latent = {"deter": ((model.rssm.deter,), "float16")}
    return shapes | flags | rest | latent | {"stoch": ((model.rssm.stoch,), "uint8")}


class Online:
    """Batches from replay, and the acting that fills it.

    make_pool: seed -> `count` environments, called when the first is to step. begin: () ->
    None, puts into a new run's replay what others have lived through. ratio:
    steps trained on per step taken. first_steps: taken before the first update.
    """

    def __init__(
        self,
        make_pool,
        replay: Replay,
        policy,
        model,
        begin,
        *,
        batch,
        ratio,
        first_steps,
        seed,
    ):
        self.make_pool, self.pool, self.count = make_pool, None, replay.streams
        self.replay, self.policy, self.model = replay, policy, model
        self.begin = begin
        self.batch, self.ratio, self.seed = batch, ratio, seed
        self.first_steps = first_steps
        self.rounds = self.updates = self.credit = self.episodes = self.bad = 0
        self.carry = None  # until the environments begin
        self.scores = collections.deque(maxlen=RECENT)
        self.lengths = collections.deque(maxlen=RECENT)
        self.score = np.zeros(self.count)
        self.age = np.zeros(self.count, int)
        self.given = self.answer = None  # windows of the last batch; states of it

    def next(self, state):
        """The batch of the next update; acts by the parameters of `state` if it is due."""
        self.write_back(state)
        if not self.replay.added:
            self.begin()
        cost = self.batch * self.replay.length
        while not self.enough() or self.credit < cost:
            self.act(state.params)
            if self.enough():
                self.credit += self.ratio * self.count
        self.credit -= cost
        rng = np.random.default_rng([self.seed, self.updates])
        self.updates += 1
        self.given = self.replay.draw(self.batch, rng)
        batch = self.replay.read(self.given)
        return batch | {"goes_on": np.zeros(self.batch, bool)}

    def enough(self) -> bool:
        return self.replay.ready and len(self.replay) >= self.first_steps

    def act(self, params):
        """One step of all environments, kept with the action that follows it."""
        if self.carry is None:
            # A run that goes on meets new episodes, not those it began with.
            words = np.random.SeedSequence([self.seed, self.rounds]).generate_state(1)
            self.pool = self.make_pool(seed=int(words[0]) if self.rounds else self.seed)
            self.carry = jax.jit(lambda: no_carry(self.model, self.count))()
            self.send(nothing(self.model.actions, self.count), reset=True)
        step = self.pool.receive()
        names = [name for name, _ in self.model.spaces] + ["is_first"]
        seen = jax.device_put({name: step[name] for name in names})
        count = jax.device_put(np.int32(self.rounds))
        self.carry, actions, kept = self.policy(params, self.carry, seen, count)
        actions, kept = jax.device_get((actions, kept))
        self.send(actions, reset=False)
        # What is chosen after an episode's last step is never done.
        kept["action"] = kept["action"] * ~step["is_last"][:, None]
        self.replay.add(step | kept)
        self.rounds += 1
        self.account(step)

    def send(self, actions, *, reset):
        self.pool.send(actions | {"reset": np.full(self.count, reset)})

    def account(self, step):
        """Scores and lengths of episodes as they end."""
        self.score = np.where(step["is_first"], 0, self.score) + step["reward"]
        self.age = np.where(step["is_first"], 0, self.age) + 1
        for i in np.flatnonzero(step["is_last"]):
            self.scores.append(float(self.score[i]))
            self.lengths.append(int(self.age[i]))
            self.episodes += 1

    def write_back(self, state):
        """Keep the states of the last batch, an update late: they are on their way."""
        if self.answer is not None:
            windows, latent = self.answer
            latent = jax.device_get(latent)
            self.replay.refresh(windows, dict(zip(LATENT, latent, strict=True)))
        self.answer = None
        if self.given is not None:
            # A copy, for the next update eats the state.
            self.answer = self.given, copied(state.seen)
        self.given = None

    def get_state(self):
        """The cursor; what was lived through is written beside the checkpoints."""
        self.replay.save()
        names = ("rounds", "updates", "credit", "episodes", "bad")
        return {name: getattr(self, name) for name in names} | {
            "added": self.replay.added
        }

    def set_state(self, state):
        state = dict(state)
        self.replay.load(state.pop("added"))
        for name, value in state.items():
            setattr(self, name, value)

    def report(self):
        new = self.replay.bad + (self.pool.take_events() if self.pool else [])
        self.replay.bad, self.bad = [], self.bad + len(new)
        numbers = {
            "env_steps": self.rounds * self.count,
            "episodes": self.episodes,
            "replay_steps": len(self.replay),
        }
        if self.scores:
            numbers["score"] = float(np.mean(self.scores))
            numbers["episode_steps"] = float(np.mean(self.lengths))
        return {"seen": self.rounds, "bad": self.bad, "new": new, "numbers": numbers}

    def close(self):
        if self.pool:
            self.pool.close()


@jax.jit
def copied(latent: Latent):
    """A copy of states that outlives the donated ones."""
    return Latent(latent.deter.astype(jnp.float16), jnp.copy(latent.stoch))
