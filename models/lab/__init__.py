"""Experiments that the road from clicks to a release never needs: compression, comparison, tuning, re-scoring."""
