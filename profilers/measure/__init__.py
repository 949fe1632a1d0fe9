"""The harness: fresh pinned processes, latency and accuracy of one variant each.

Imports `timing` and `cost`.
"""
