"""What the operating system tells: processor, limits, memory, and what disturbs a measurement.

Imports `core`. Imported by `bench`, `pipeline`, `profilers`, `profilers.choose`, `profilers.compare`,
`profilers.gate`, `profilers.measure`, `runs`, `runtimes`, `train.distill` and `train.fitting`.
"""
