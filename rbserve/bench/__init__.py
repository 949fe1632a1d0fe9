"""The matrix models x data sets x variants, cell by cell: resumable, and on whatever engine runs the cells.

Imports everything but `cli`.
"""
