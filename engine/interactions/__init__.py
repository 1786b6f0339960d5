"""Recorded interactions: files, columns and rows in batches; one reader for training and replay."""
