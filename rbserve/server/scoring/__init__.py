"""Models that answer: their queue and scoring thread, and new versions taking the place of old ones.

Imports `runtimes`, `api` and `observe`; knows nothing of HTTP.
"""
