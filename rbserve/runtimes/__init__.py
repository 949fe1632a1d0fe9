"""How a model is opened and called: the one way to score and the one way to rank.

Imports `core`, `data`, `features`, `machine` and `models`. Imported by `bench`, `cli`, `exporters`,
`exporters.adopt`, `pipeline`, `profilers.choose`, `profilers.client`, `profilers.cost`, `profilers.measure`,
`profilers.timing`, `server.routes`, `server.scoring`, `train`, `train.distill`, `train.encoders` and `train.tasks`.
"""
