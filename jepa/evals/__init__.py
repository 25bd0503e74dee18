"""Evaluations of encoders: health, read-outs, surprise, pictures."""
