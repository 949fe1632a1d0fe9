"""Files that several machines share, by what is in them: pushed and pulled by sha256 (extra `store`).

Imports no other room. Imported by no other room.
"""
