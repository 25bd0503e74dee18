"""MuJoCo tasks of dm_control and gymnasium: opened, put into states, recorded; no jax."""
