"""The instrument: latency, accuracy, comparison and reports.

Imports `home`, `runtimes` and what lies below them; knows nothing of training or export.
"""
