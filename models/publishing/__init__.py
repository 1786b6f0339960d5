"""ONNX graphs and release bundles from trained weights, and the announcement of a release."""
