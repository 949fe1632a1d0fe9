"""Runs side by side: comparable points, the front, students, the paper.

Imports `core`, `data`, `home`, `machine`, `runs` and `stats`. Imported by `bench`, `cli`, `profilers.choose` and
`profilers.report`.
"""
