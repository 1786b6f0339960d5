"""From trained weights to a release bundle, and its announcement."""
