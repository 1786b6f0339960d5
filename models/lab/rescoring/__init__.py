"""Re-scoring of a release's top candidates by target attention: trained, exported, and measured against its cost."""
