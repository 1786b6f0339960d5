"""From windows to candidates: features, encoder, embedding tables, index, merge."""
