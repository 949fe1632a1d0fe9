"""What everything stands on: types, errors, files, names. No torch here.

Imports no other room. Imported by `bench`, `cli`, `client`, `cluster`, `data`, `exporters`, `exporters.adopt`,
`features`, `home`, `machine`, `models`, `pipeline`, `profilers`, `profilers.capacity`, `profilers.choose`,
`profilers.client`, `profilers.compare`, `profilers.cost`, `profilers.gate`, `profilers.measure`, `profilers.report`,
`profilers.timing`, `progress`, `rbserve`, `runs`, `runtimes`, `server`, `server.api`, `server.http`,
`server.observe`, `server.process`, `server.routes`, `server.scoring`, `stats`, `store`, `train`, `train.datasets`,
`train.distill`, `train.encoders`, `train.fitting`, `train.protocol`, `train.semantic_ids` and `train.tasks`.
"""
