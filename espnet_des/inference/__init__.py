"""Trained models: loading, decoding by beam search or best path, scoring.

May import: errors, espnet_api, utils, method, nn.
"""
