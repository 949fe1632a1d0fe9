"""Exports: a trained artefact becomes ONNX files that are checked against the torch reference.

Imports `runtimes` and the rooms below it, never `train`, `profilers` or `server`. Imported by `pipeline` alone.
"""
