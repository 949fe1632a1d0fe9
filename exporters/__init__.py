"""From a trained artefact to checked ONNX files.

Imports `runtimes` and what lies below it; knows nothing of training or timing.
"""
