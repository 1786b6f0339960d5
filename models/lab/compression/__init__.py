"""Compression of a release: quantised and pruned graphs, checked, measured and written as releases."""
