"""Turns raw recordings into data sets that are fast to read: launch.prepare."""
