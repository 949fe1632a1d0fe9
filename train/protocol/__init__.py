"""The paper's protocol: from labelled events to user-disjoint splits, in bounded memory.

Imports `core`, `data` and `models`.
"""
