"""The scoring server: HTTP around scorers and rankers.

It knows nothing of training, export or timing.

Imports `core`, `server.api`, `server.observe`, `server.process`, `server.routes` and `server.scoring`. Imported by
`pipeline`.
"""
