"""One size as an ONNX file, which runs without ESPnet and torch.

May import: what deploy may. ``example.py`` imports nothing of the project.
"""
