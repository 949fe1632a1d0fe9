"""The server process: how it starts, stops without losing a request, and watches its workers.

Imports `core`, `server.api`, `server.http`, `server.observe`, `server.routes` and `server.scoring`. Imported by
`server`.
"""
