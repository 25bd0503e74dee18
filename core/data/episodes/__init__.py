"""Recorded trajectories: their schema, names, windows and cameras."""
