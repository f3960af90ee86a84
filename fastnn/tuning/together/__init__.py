"""Many models trained at a time on the same data."""
