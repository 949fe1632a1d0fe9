"""The only timing loop, and what one timed call is.

Imports `core`, `data`, `features`, `runs` and `runtimes`. Imported by `bench`, `pipeline`, `profilers.client`,
`profilers.cost` and `profilers.measure`.
"""
