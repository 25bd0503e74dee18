"""Work of a step, and the same step in PyTorch."""
