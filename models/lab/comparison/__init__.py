"""Comparison of systems that are trained in equal time and evaluated on the same queries."""
