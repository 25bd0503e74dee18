"""A run's folder: checkpoints, starting, reports, preemption; imports parallel, base."""
