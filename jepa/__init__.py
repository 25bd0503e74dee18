"""Masked latent prediction on video."""

RENAMED = {"train": "pretrain"}  # modules that configs of older runs name
