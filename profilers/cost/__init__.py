"""What a call costs in operations and bytes, and the most that this machine does of either.

Imports `timing`.
"""
