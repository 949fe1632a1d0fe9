"""How a model is opened and called: the one way to score and the one way to rank.

Imports `core`, `data`, `machine`, `models` and `runs`.
"""
