"""Readers of trajectory formats, one file per format. They give core/data/steps.py's names."""
