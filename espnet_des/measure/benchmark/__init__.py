"""Measurements that the documentation quotes: ratios, from paired rounds, in one run.

May import: what measure may.
"""
