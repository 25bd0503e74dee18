"""Data sets, decoding and batches. Runs in worker processes, so it imports no jax."""
