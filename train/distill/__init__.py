"""Distillation: a teacher's scores of training users, and the soft labels that a student learns from them.

Imports `train.tasks`. Imported by `train.fit` and `pipeline`.
"""
