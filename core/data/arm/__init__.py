"""The embedded arm: two links and a gripper, moved, drawn and recorded; no jax."""
