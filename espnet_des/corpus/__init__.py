"""Readers and generators of speech corpora."""
