"""Run files: raw samples and scores of one profile, the figures derived from them, and the baselines beside them.

Imports `core`, `data`, `stats`, `machine` and `models`.
"""
