"""Data sources, one per file, and the readers that turn raw files into events and items.

Imports `core`, `data`, `features` and `train.protocol`. Imported by `cli` and `pipeline`.
"""
