"""The command line: one file a verb; each parses, calls one function, prints.

Imports `bench`, `core`, `data`, `features`, `home`, `models`, `pipeline`, `profilers`, `profilers.capacity`,
`profilers.choose`, `profilers.client`, `profilers.compare`, `profilers.gate`, `profilers.report`, `progress`, `runs`,
`runtimes`, `server.api`, `server.http`, `stats`, `store`, `train.datasets` and `train.protocol`. Imported by
`__main__`.
"""
