"""The routes: rbserve's own API and the Open Inference Protocol.

Imports `core`, `runtimes`, `server.api`, `server.http`, `server.observe` and `server.scoring`. Imported by `server`
and `server.process`.
"""
