"""The scoring server: HTTP around scorers and rankers.

Imports `runtimes` and what lies below it; knows nothing of training, export or timing.
"""
