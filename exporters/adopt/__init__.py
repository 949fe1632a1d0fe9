"""Models that were made elsewhere, read and converted to ONNX where that is possible.

Imports `core`. Imported by no other room.
"""
