"""What a model reads of items, users and requests beside ids and texts: fields of tables, and counts of training rows.

NumPy alone: training and serving make the same tensors by the same code.

Imports `core`, `data` and `stats`. Imported by `cli`, `pipeline`, `profilers.client`, `profilers.timing`, `runtimes`,
`server.scoring`, `train`, `train.datasets`, `train.protocol` and `train.tasks`.
"""
