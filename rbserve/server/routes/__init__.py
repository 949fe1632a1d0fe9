"""The routes: rbserve's own API and the Open Inference Protocol.

Imports `http` and `scoring`.
"""
