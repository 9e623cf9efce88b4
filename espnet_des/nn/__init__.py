"""The supernet: layers, encoder, front ends, output layers and the model with its losses.

May import: errors, espnet_api, utils, method.
"""
