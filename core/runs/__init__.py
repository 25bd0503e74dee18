"""One run: folder, checkpoints, start, reports, preemption; imports base and parallel."""
