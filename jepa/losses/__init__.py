"""Losses of the JEPA family, and terms against collapse."""
