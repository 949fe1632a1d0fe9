"""What is on disk: item tables, splits, data sets, artefacts, semantic identifiers.

Imports `core`. Imported by `bench`, `cli`, `exporters`, `exporters.adopt`, `features`, `home`, `models`, `pipeline`,
`profilers.choose`, `profilers.client`, `profilers.compare`, `profilers.cost`, `profilers.gate`, `profilers.measure`,
`profilers.report`, `profilers.timing`, `runs`, `runtimes`, `server.scoring`, `train`, `train.datasets`,
`train.distill`, `train.encoders`, `train.protocol`, `train.semantic_ids` and `train.tasks`.
"""
