"""Recorded interactions: files found, columns known, rows read batch by batch; one reader for training and replay."""
