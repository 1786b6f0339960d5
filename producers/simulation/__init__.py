"""Simulated shoppers with known, drifting interests."""
