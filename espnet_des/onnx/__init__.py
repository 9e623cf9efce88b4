"""One size as an ONNX file, which runs without ESPnet and torch."""
