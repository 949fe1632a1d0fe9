"""The server process: how it starts, stops without losing a request, and watches its workers.

Imports `routes`.
"""
