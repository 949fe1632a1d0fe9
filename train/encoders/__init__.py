"""Frozen language models: located on disk or fetched, run over item texts, their vectors cached.

Imports no other room of `train`. Imported by `train.semantic_ids`, `train.tasks` and `pipeline`.
"""
