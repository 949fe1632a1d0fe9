"""The matrix models x data sets x variants, cell by cell: resumable, and on whatever engine runs the cells.

Imports `cluster`, `core`, `data`, `home`, `machine`, `models`, `pipeline`, `profilers.compare`, `profilers.measure`,
`profilers.timing`, `progress`, `runs`, `runtimes`, `store` and `train`. Imported by `cli`.
"""
