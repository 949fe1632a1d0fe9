"""The harness: fresh pinned processes, latency and accuracy of one variant each.

Imports `core`, `data`, `home`, `machine`, `profilers.cost`, `profilers.timing`, `runs`, `runtimes` and `stats`.
Imported by `bench`, `pipeline`, `profilers`, `profilers.choose`, `profilers.client` and `profilers.gate`.
"""
