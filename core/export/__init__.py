"""Frozen artifacts with model card and provenance; imports runs and below."""
