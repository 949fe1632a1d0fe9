"""Runs side by side: comparable points, the front, students, the paper.

Reads run files alone: imports no room of `profilers` that measures.
"""
