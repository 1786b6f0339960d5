"""Better training settings within a time budget."""
