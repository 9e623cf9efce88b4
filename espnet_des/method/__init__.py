"""The method of the paper: scores, selection, schedule and passes of an update.

Knows torch, and nothing of ESPnet. May import: errors, utils.
"""
