"""Experiments outside the path from clicks to a release: compression, comparison, tuning, re-scoring."""
