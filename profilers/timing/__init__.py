"""The only timing loop, and what one timed call is.

Imports `runtimes` and what lies below it.
"""
