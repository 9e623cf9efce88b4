"""ESPnet's Trainer for a supernet: schedule, checkpoints, resume, bad data, log of the scores.

May import: errors, espnet_api, utils, method, plot, nn.
"""
