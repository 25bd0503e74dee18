"""How trajectories lie on disk: each file reads one format."""
