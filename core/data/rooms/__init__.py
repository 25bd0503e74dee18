"""The embedded two rooms: a disc, a wall with a door; moved, drawn and recorded; no jax."""
