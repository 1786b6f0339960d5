"""Users' behaviour windows: the store, the changelog, snapshots, spilling and restoring."""
