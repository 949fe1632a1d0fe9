"""Models that answer: their queue and scoring thread, and new versions taking the place of old ones.

It knows nothing of HTTP.

Imports `core`, `data`, `features`, `runtimes`, `server.api` and `server.observe`. Imported by `pipeline`, `server`,
`server.process` and `server.routes`.
"""
