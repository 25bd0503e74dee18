"""Masked latent prediction on video."""
