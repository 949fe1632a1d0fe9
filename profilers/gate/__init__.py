"""The regression gate: base against head, estimates, verdicts.

Imports `core`, `data`, `machine`, `profilers.measure`, `runs` and `stats`. Imported by `cli` and `pipeline`.
"""
