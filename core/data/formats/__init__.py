"""Readers of trajectory formats, one file per format. They give episodes/steps.py's names."""
