"""The two-hop encoder in torch, and its loss."""
