"""Arithmetic on numbers: accuracy metrics, confidence intervals, scaling exponents.

Imports NumPy and no other room.
"""
