"""The paper's protocol: labelled events become user-disjoint splits, in bounded memory.

Imports no other room of `train`. Imported by `train.datasets` and `pipeline`.
"""
