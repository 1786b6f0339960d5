"""Evaluation of a release through the engine's own path: metrics, baselines, breakdowns, reports."""
