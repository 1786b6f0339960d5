"""Recorded clicks and items: read, sorted by user, cut into sequences."""
