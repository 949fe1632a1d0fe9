"""What is learnt: a file a task, each with its batches, its loss and its validation metric.

Imports `encoders`, `semantic_ids`, `warm_start` and the training loop.
"""
