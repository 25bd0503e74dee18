"""Evaluation of checkpoints: readouts, collapse alarms; imports runs and below."""
