"""Training: raw data to data sets, the tasks, and the one training loop.

Imports `runtimes` and what lies below it; knows nothing of ONNX or timing.
"""
