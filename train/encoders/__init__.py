"""Frozen language models: located on disk or fetched, run over item texts, their vectors cached.

Imports `core`, `data`, `models` and `runtimes`. Imported by `pipeline`, `train`, `train.distill`,
`train.semantic_ids` and `train.tasks`.
"""
