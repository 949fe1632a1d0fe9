"""The paper's protocol: labelled events become user-disjoint splits, in bounded memory.

Imports `core`, `data` and `models`. Imported by `cli`, `pipeline` and `train.datasets`.
"""
