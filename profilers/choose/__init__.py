"""Which variant to serve: by latency objectives (`recommend`), or of one artefact (`choice`).

Imports `core`, `data`, `home`, `machine`, `profilers.compare`, `profilers.measure`, `runs`, `runtimes` and `stats`.
Imported by `cli`, `pipeline` and `profilers.capacity`.
"""
