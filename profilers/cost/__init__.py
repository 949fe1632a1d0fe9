"""What a call costs in operations and bytes, and the most that this machine does of either.

Imports `core`, `data`, `profilers.timing`, `runs` and `runtimes`. Imported by `profilers.measure`.
"""
