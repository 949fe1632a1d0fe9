"""The paper's protocol: labelled events become three splits, by user or by time, in bounded memory.

Imports `core`, `data`, `features` and `models`. Imported by `cli`, `pipeline` and `train.datasets`.
"""
