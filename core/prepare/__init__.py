"""Turns raw recordings into data sets that train fast."""
