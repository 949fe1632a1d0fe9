"""The one training loop: batches, updates, validation, checkpoints; and files of tensors.

Imports `core` and `machine`. Imported by `pipeline`, `train`, `train.distill`, `train.semantic_ids` and
`train.tasks`.
"""
