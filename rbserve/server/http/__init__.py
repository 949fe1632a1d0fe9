"""HTTP itself: bodies, replies, connections, keys, other origins, and refusals before a request is begun.

Imports `api` and `core`; knows nothing of models.
"""
