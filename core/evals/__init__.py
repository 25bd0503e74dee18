"""Evaluation of checkpoints: read-outs and signs of collapse; imports runs and below."""
