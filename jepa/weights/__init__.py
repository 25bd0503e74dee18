"""Weights in other people's files, read and written; exports."""
