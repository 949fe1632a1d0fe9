"""Files that several machines share, by what is in them: pushed and pulled by sha256 (extra `store`).

Imports `core`. Imported by `bench`, `cli`, `home` and `pipeline`.
"""
