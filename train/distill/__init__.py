"""Distillation: a teacher's scores of training users, and what a student learns from them.

Imports `tasks`.
"""
