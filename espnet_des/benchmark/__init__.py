"""Measurements that the README quotes: ratios, from paired rounds, in one run."""
