"""What a model reads of items, users and requests beside ids and texts: fields of tables, and counts of training rows.

NumPy alone: training and serving make the same tensors by the same code.

Imports `core` and `data`. Imported by `runtimes`, `train` and `train.tasks`.
"""
