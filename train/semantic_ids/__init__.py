"""Semantic identifiers: an RQ-VAE over the items' vectors, and a path of codes of its own for every item.

Imports `encoders` and the training loop.
"""
