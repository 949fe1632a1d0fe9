"""The server process: how it starts, stops without losing a request, and watches its workers.

Imports `core`, `progress`, `server.api`, `server.http`, `server.observe`, `server.routes` and `server.scoring`.
Imported by `server`.
"""
