"""Which variant to serve: by latency objectives (`recommend`), or of one artefact (`choice`).

Imports `measure` and `compare`.
"""
