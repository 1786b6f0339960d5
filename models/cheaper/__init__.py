"""Cheaper forms of a release: rewritten, tried, measured."""
