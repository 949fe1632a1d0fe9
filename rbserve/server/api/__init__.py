"""The options of a server, the types of requests, their limits, and the API document made from them.

Imports `core` alone.
"""
