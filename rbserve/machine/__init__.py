"""What the operating system tells: processor, limits, memory, and what disturbs a measurement.

Imports `core` alone.
"""
