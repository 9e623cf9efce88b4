"""From a trained ESPnet model to a supernet of it: its config, its weights, a first ranking.

May import: errors, espnet_api, utils, method, nn, corpus, training, inference, deploy.
"""
