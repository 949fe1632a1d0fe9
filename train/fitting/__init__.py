"""The one training loop: batches, updates, validation, checkpoints; and files of tensors.

Imports `core`. Imported by `train`, `train.distill`, `train.semantic_ids` and `train.tasks`.
"""
