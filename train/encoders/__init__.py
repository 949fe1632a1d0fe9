"""Frozen language models: found on disk, run over texts, their vectors kept.

Imports `core`, `data` and `models`.
"""
