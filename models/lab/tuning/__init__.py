"""Tuning of training settings within a time budget."""
