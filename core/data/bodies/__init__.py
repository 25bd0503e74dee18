"""The embedded world: small rigid bodies, simulated, drawn and labelled; no jax."""
