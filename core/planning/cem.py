"""Planning in latent space by the cross-entropy method, in place of an actor.

arXiv 1811.04551, section 2, on the world model at hand: rewards count as far as the
continue head says that the episode lasts.
"""

import jax
import jax.numpy as jnp

from core.nn import distributions


def make_chooser(model, *, horizon, candidates, best, rounds, explore):
    """choose(params, latent, key) -> the first action [E, A] of the best plan found.

    Plans are drawn around a mean, rolled out by one draw of the prior each, and the mean
    moves to the `best` of them, `rounds` times. explore: deviation of noise added to the
    action, for what is lived through to differ.
    """
    for name, space in model.actions:
        if space.is_discrete:
            raise ValueError(
                f"behavior 'cem' plans with real actions, but {name!r} is discrete; "
                "use 'actor'"
            )
    if not 1 <= best <= candidates:
        raise ValueError(
            f"planner.best is {best}; use 1 to {candidates}, the candidates"
        )

    def scores(params, latent, plans, key):
        """Sum of rewards [E, J] of plans [H, E, J, A] from states of E worlds."""
        H, E, J, A = plans.shape
        many = jax.tree.map(lambda x: jnp.repeat(x, J, 0), latent)
        states = model.rssm.apply(
            {"params": params["rssm"]},
            many,
            plans.reshape(H, E * J, A),
            key,
            method="follow",
        )
        x = states.features()
        reward = model.reward.apply({"params": params["reward"]}, x)
        cont = model.cont.apply({"params": params["continue"]}, x)
        alive = jnp.cumprod(jax.nn.sigmoid(cont), 0)
        alive = jnp.concatenate([jnp.ones_like(alive[:1]), alive[:-1]])
        return (alive * distributions.two_hot_mean(reward)).sum(0).reshape(E, J)

    def choose(params, latent, key):
        E, A = latent.deter.shape[0], model.rssm.action
        keys = jax.random.split(key, rounds + 1)

        def improve(search, key):
            mean, std = search
            for_plans, for_states = jax.random.split(key)
            noise = jax.random.normal(for_plans, (horizon, E, candidates, A))
            plans = jnp.clip(mean[:, :, None] + std[:, :, None] * noise, -1, 1)
            found = scores(params, latent, plans, for_states)
            top = jax.lax.top_k(found, best)[1][None, :, :, None]
            plans = jnp.take_along_axis(plans, top, 2)
            return (plans.mean(2), jnp.sqrt(plans.var(2) + 1e-6)), None

        begin = jnp.zeros((horizon, E, A)), jnp.ones((horizon, E, A))
        (mean, _), _ = jax.lax.scan(improve, begin, keys[1:])
        action = mean[0] + explore * jax.random.normal(keys[0], (E, A))
        return jnp.clip(action, -1, 1)

    return choose
