"""Presets: data for the launcher, nothing but ml_collections imported."""
