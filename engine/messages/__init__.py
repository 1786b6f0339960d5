"""Message schemas and their decoding, with msgspec alone: no numpy, no index, no onnxruntime."""
