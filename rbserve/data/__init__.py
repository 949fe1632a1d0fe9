"""What is on disk: item tables, splits, data sets, artefacts, semantic identifiers.

Imports `core` alone.
"""
