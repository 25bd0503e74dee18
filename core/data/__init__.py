"""Sources of samples and what turns them into batches; no jax, for it runs in workers."""
