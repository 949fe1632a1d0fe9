"""A running server, seen from outside: its behaviour under load, and whether it scores as profiled.

Imports `client`, `core`, `data`, `features`, `profilers.measure`, `profilers.timing`, `runtimes` and `stats`.
Imported by `cli`, `pipeline` and `profilers.capacity`.
"""
