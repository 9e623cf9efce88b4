"""Pictures, drawn from data that are handed over: nothing is loaded or measured here.

May import: errors, utils, method.
"""
