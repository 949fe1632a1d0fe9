"""The one training loop: batches, updates, validation, checkpoints; and files of tensors.

Imports `core`; the tasks give it their batches and losses.
"""
