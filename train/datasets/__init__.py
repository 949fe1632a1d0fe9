"""Sources of data: a file each, from raw files to a data set.

Imports `train.protocol.sampling`, `splitting` and `tally`, and what lies below `train`.
"""
