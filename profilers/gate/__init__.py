"""The regression gate: base against head, estimates, verdicts.

Imports `measure`.
"""
