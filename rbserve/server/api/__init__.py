"""The options of a server, the types of requests, their limits, and the API document made from them.

Imports `core` and `runs`. Imported by `cli`, `pipeline`, `server`, `server.http`, `server.observe`, `server.process`,
`server.routes` and `server.scoring`.
"""
