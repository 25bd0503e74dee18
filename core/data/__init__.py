"""Sources of samples and what makes batches of them; no jax, for it runs in workers."""
