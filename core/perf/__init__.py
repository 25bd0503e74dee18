"""Benchmarks, sweeps and forecasts; may import every room, imported by launch alone."""
