"""From what is left to learn from to the best weights found."""
