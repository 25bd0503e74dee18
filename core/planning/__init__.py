"""Planners over any model that gives an objective; imports nn and below."""
