"""Data sources, one per file, and the readers that turn raw files into events and items.

Imports `train.protocol`. Imported by `pipeline` and, for the names of sources, by `cli`.
"""
