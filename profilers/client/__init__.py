"""A running server, seen from outside: its behaviour under load, and whether it scores as profiled.

Imports `timing`.
"""
