"""Training: raw data become data sets, and a zoo row and a data set become an artefact.

Imports `core`, `data`, `features`, `models`, `runtimes`, `train.distill`, `train.encoders`, `train.fitting` and
`train.tasks`. Imported by `bench`, `pipeline` and `train.tasks`.
"""
