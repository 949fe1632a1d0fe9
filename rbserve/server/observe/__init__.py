"""What a server tells about itself: metrics for Prometheus and logs.

Imports `core` and `server.api`. Imported by `server`, `server.process`, `server.routes` and `server.scoring`.
"""
