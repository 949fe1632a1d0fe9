"""The instrument: latency, accuracy, comparison and reports.

It knows nothing of training or export.

Imports `core`, `machine` and `profilers.measure`. Imported by `cli`.
"""
