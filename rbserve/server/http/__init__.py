"""HTTP itself: bodies, replies, connections, keys, other origins, and refusals before a request is begun.

It knows nothing of models.

Imports `core` and `server.api`. Imported by `cli`, `server.process` and `server.routes`.
"""
