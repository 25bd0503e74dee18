"""Environments by name of their task; without jax, since workers import them."""
