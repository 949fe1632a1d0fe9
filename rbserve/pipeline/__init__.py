"""The steps, in their order: each makes what is missing upstream, and says on standard error what it makes.

Heavy imports wait inside the step that needs them, so that serving an existing artefact loads none of them.

Imports `client`, `cluster`, `core`, `data`, `exporters`, `exporters.adopt`, `features`, `home`, `machine`, `models`,
`profilers.capacity`, `profilers.choose`, `profilers.client`, `profilers.gate`, `profilers.measure`,
`profilers.report`, `profilers.timing`, `progress`, `runs`, `runtimes`, `server`, `server.api`, `server.scoring`,
`stats`, `store`, `train`, `train.datasets`, `train.distill`, `train.encoders`, `train.fitting`, `train.protocol`,
`train.semantic_ids` and `train.tasks`. Imported by `bench`, `cli` and `rbserve`.
"""
