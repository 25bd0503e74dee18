"""What the methods see: clips, masks, dropped tokens, color jitter."""
