"""Benchmarks, sweeps and forecasts; may import every room; only launch imports it."""
