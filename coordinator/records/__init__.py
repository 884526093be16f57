"""What a run writes down, and what it can be restored from."""
