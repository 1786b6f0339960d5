"""Benchmarks of the engine, compared with its floor."""
