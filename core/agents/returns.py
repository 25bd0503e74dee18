"""Lambda returns: of imagined trajectories, and of replayed ones with a bootstrap.

arXiv 2301.04104, "critic learning". Time is the first axis; all is float32. What happens
in the step from t to t + 1 is in the arrays at t + 1.
"""

import jax
import jax.numpy as jnp


def lambda_returns(reward, cont, value, *, lam: float):
    """R_t = r_t+1 + c_t+1 ((1 - lam) v_t+1 + lam R_t+1), with R_H = v_H.

    Args:
      reward: predicted rewards [H + 1, N]; the first is not used.
      cont: discounts, the probability that the episode continues times gamma [H + 1, N].
      value: predicted returns [H + 1, N].
      lam: 0 for one-step returns, 1 for the whole horizon.

    Returns:
      returns of steps 0 to H - 1, [H, N].
    """

    def back(future, x):
        reward, cont, value = x
        now = reward + cont * ((1 - lam) * value + lam * future)
        return now, now

    steps = (reward[1:], cont[1:], value[1:])
    return jax.lax.scan(back, value[-1], steps, reverse=True)[1]


def replay_returns(reward, last, terminal, bootstrap, *, lam: float, gamma: float):
    """Lambda returns of replayed steps: [T, B] each -> [T - 1, B], of steps 0 to T - 2.

    Args:
      reward: received on arriving at a step.
      last: bool, an episode stops here: the bootstrap alone counts after it.
      terminal: bool, an episode ends here for good: nothing counts after it.
      bootstrap: return of each step by the model, such as its imagined return.
      lam: as in `lambda_returns`.
      gamma: discount of a step.
    """
    mix = lam * (1 - last.astype(jnp.float32))
    live = gamma * (1 - terminal.astype(jnp.float32))

    def back(future, x):
        reward, mix, live, bootstrap = x
        now = reward + live * ((1 - mix) * bootstrap + mix * future)
        return now, now

    steps = (reward[1:], mix[1:], live[1:], bootstrap[1:])
    return jax.lax.scan(back, bootstrap[-1], steps, reverse=True)[1]
