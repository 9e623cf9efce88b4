"""Readers and generators of speech corpora, and Kaldi's data directories.

May import: errors, utils.
"""
