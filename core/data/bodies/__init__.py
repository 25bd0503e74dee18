"""The embedded world: rigid bodies, simulated, drawn and labeled on the fly; no jax."""
