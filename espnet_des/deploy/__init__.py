"""One size of a supernet as a model of its own: extraction, BatchNorm statistics, ONNX, a web page.

May import: errors, espnet_api, utils, method, nn, corpus, inference.
"""
