"""Training: raw data become data sets, and a zoo row and a data set become an artefact.

Imports `runtimes` and the rooms below it, never `exporters`, `profilers` or `server`. Imported by `pipeline` and, for
the names of data sources, by `cli`.
"""
