"""How good a release is, asked through the engine's own path."""
