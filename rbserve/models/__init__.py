"""The recommenders: configs, modules and the zoo table. Models only compute.

Imports `core` and `data`. Imported by `bench`, `cli`, `exporters`, `exporters.adopt`, `home`, `pipeline`,
`profilers.report`, `runs`, `runtimes`, `train`, `train.distill`, `train.encoders`, `train.protocol`,
`train.semantic_ids` and `train.tasks`.
"""
