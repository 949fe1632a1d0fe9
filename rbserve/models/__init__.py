"""The recommenders: configs, modules and the zoo table. Models only compute.

Imports `core` and `data`.
"""
