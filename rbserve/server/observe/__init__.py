"""What a server tells about itself: metrics for Prometheus and logs.

Imports `api` and `core`.
"""
