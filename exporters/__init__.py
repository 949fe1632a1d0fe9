"""Exports: a trained artefact becomes ONNX files that are checked against the torch reference.

Imports `core`, `data`, `models`, `runtimes` and `stats`. Imported by `exporters.adopt` and `pipeline`.
"""
