"""Recorded events, played onto a topic."""
