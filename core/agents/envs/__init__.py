"""Environments to act in, by name; no jax, for they run in workers."""
