"""Re-scoring of a release's best candidates by target attention: trained, exported, and weighed against its cost."""
