"""Distillation: a teacher's scores of training users, and the soft labels that a student learns from them.

Imports `core`, `data`, `machine`, `models`, `runtimes`, `stats`, `train.encoders`, `train.fitting` and `train.tasks`.
Imported by `pipeline` and `train`.
"""
