"""Target attention over a release's top candidates, weighed against its cost."""
