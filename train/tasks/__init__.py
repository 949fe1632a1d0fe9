"""Training tasks, one per file: each has training rows, a loss and a validation metric.

Imports `core`, `data`, `features`, `models`, `runtimes`, `stats`, `train`, `train.encoders`, `train.fitting` and
`train.semantic_ids`. Imported by `pipeline`, `train` and `train.distill`.
"""
