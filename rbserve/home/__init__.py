"""The home directory: its paths, what --model means (`target.py`), and the commands that reports print.

Imports `core`, `data`, `models`, `runs` and `progress`; whoever makes, measures or serves a model imports it.
"""
