"""The home directory: its paths, what a --model means, and the commands that make or use an artefact.

Imports `core`, `data`, `models` and `runs`.
"""
