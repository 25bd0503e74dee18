"""Meshes, layouts, collectives and gradients over many devices and processes; imports base."""
