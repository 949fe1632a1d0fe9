"""Semantic identifiers: an RQ-VAE over the items' vectors, and a distinct path of codes for every item.

Imports `train.encoders` and the training loop. Imported by `train.tasks`, `train.tasks.warm_start` and `pipeline`.
"""
