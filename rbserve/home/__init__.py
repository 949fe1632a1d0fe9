"""The home directory: its paths, what --model means (`target.py`), and the commands that reports print.

Imports `core`, `data`, `models`, `progress`, `runs` and `store`. Imported by `bench`, `cli`, `pipeline`,
`profilers.choose`, `profilers.compare`, `profilers.measure` and `profilers.report`.
"""
