"""The policy of an agent: the world model follows the environments, a chooser acts."""

import jax
import jax.numpy as jnp

from core.agents.policy import Policy
from core.agents.spaces import total_width
from dreamer import world_model
from dreamer.world_model import WorldModel


def make_policy(model: WorldModel, choose) -> Policy:
    """A policy whose carry is (state of the world, last action), [E, ...] each.

    choose: (params, latent, key) -> actions [E, A], an actor's or a planner's. The replay
    keeps the states, in half precision and as class numbers, since windows begin from them.
    """
    width = total_width(model.actions)

    def first_carry(count):
        return model.rssm.first(count), jnp.zeros((count, width))

    def act(params, carry, observation, key):
        latent, action = carry
        for_states, for_actions = jax.random.split(key)
        one = {name: x[:, None] for name, x in observation.items()}
        one["action"] = action[:, None]
        gumbel = world_model.noise_of(model, one, for_states)
        states, _ = world_model.observe(model, params, latent, one, gumbel)
        latent = jax.tree.map(lambda x: x[0], states)
        action = choose(params, latent, for_actions)
        kept = {"deter": latent.deter, "stoch": jnp.argmax(latent.stoch, -1)}
        return action, (latent, action), kept

    return Policy(
        first_carry,
        act,
        kept_shapes={
            "deter": ((model.rssm.deter,), "float16"),
            "stoch": ((model.rssm.stoch,), "uint8"),
        },
        updated_kept=lambda state: state.seen._asdict(),
    )
