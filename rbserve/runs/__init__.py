"""Run files: raw samples and scores of one profile, and the figures that are a function of them.

Imports `core`, `data`, `stats`, `machine` and `models`.
"""
