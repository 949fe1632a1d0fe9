"""How many replicas a rate takes: a queueing simulation of the server, fed with the raw times of a profile.

Imports `core`, `profilers.choose`, `profilers.client`, `runs` and `stats`. Imported by `cli` and `pipeline`.
"""
