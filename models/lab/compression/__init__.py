"""Compressed forms of a release: quantised and pruned, checked, measured."""
