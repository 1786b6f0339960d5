"""Benchmarks of the engine against its floor."""
