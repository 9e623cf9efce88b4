"""Block types: what the supernet must know of each of ESPnet's encoders, a file for each.

May import: errors, espnet_api, utils, method, and from nn what knows no block.
"""
