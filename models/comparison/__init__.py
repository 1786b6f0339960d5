"""Contestants that learn and are asked in one run."""
