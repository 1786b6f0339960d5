"""Training, from training data to the best weights."""
