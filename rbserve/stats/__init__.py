"""Arithmetic on numbers: accuracy metrics, confidence intervals, scaling exponents.

Imports `core`. Imported by `cli`, `exporters`, `features`, `pipeline`, `profilers.capacity`, `profilers.choose`,
`profilers.client`, `profilers.compare`, `profilers.gate`, `profilers.measure`, `profilers.report`, `runs`,
`train.distill` and `train.tasks`.
"""
