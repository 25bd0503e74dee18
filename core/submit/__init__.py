"""Jobs for schedulers: one description, rendered for Slurm, GKE, TPU VMs, SkyPilot."""
