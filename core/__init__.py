"""What every method shares; names no method and imports none."""
