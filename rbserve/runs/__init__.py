"""Run files: raw samples and scores of one profile, the figures derived from them, and the baselines beside them.

Imports `core`, `data`, `machine`, `models` and `stats`. Imported by `bench`, `cli`, `home`, `pipeline`,
`profilers.capacity`, `profilers.choose`, `profilers.compare`, `profilers.cost`, `profilers.gate`,
`profilers.measure`, `profilers.report`, `profilers.timing` and `server.api`.
"""
