"""The embedded pushing task: a disc pushes a puck; moved, drawn and recorded; no jax."""
