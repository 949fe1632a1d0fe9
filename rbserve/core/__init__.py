"""What everything stands on: types, errors, files, names. No torch here.

Imports no other room.
"""
