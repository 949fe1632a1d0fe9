"""Models that were made elsewhere, read and converted to ONNX where that is possible.

Imports `core`, `data`, `exporters`, `models` and `runtimes`. Imported by `pipeline`.
"""
