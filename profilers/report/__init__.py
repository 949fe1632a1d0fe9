"""A report's files: tables, pictures, the page.

Imports `core`, `data`, `home`, `models`, `profilers.compare`, `runs` and `stats`. Imported by `cli` and `pipeline`.
"""
