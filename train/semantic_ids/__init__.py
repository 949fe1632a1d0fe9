"""Semantic identifiers: an RQ-VAE over the items' vectors, and a distinct path of codes for every item.

Imports `core`, `data`, `models`, `train.encoders` and `train.fitting`. Imported by `pipeline` and `train.tasks`.
"""
