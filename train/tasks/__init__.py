"""Training tasks, one per file: each has training rows, a loss and a validation metric.

Imports `train.encoders`, `train.semantic_ids` and the training loop. Imported by `train.fit` and `train.distill`.
"""
