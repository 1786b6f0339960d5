"""Recorded clicks played as a stream: lists as workers push them, with retrainings, and rivals on the same clicks."""
